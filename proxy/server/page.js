// Takes the new content in place of the old, so that nothing flashes and no scroll is lost; says so when none comes.
setInterval(async () => {
  let lost = true;
  try {
    const answer = await fetch('/', {cache: 'no-store', signal: AbortSignal.timeout(4500)});
    const page = new DOMParser().parseFromString(await answer.text(), 'text/html');
    const main = page.querySelector('main');
    if (answer.ok && main) {
      document.querySelector('main').replaceWith(main);
      document.title = page.title;
      lost = false;
    }
  } catch (error) {}
  document.body.classList.toggle('stale', lost);
  if (lost) document.title = 'cardcash-proxy: no answer';
}, 5000);
