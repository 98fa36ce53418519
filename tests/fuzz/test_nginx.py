"""What the proxy accepts and sends up, nginx reads in the same way: the same requests, targets and bodies."""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from tests.fuzz.corpus import Row, allowed, needs, requests, sample, timeout
from tests.fuzz.grammar import requests_in
from tests.fuzz.lane import Lane, Upstream, proxy_lane
from tests.fuzz.mutation import explore, mutated
from tests.fuzz.test_mutations import REQUESTS, running

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
_needs_nginx = pytest.mark.skipif(NGINX is None, reason="nginx is not installed")
#: What nginx refuses and we send up, each with the reason, the look of it, and a row that it must refuse still.
REFUSED = {
    "we forward targets byte for byte; nginx refuses those that climb above the root, once decoded": (
        *(rb"(?i)\A\S+ \S*(?:\.|%2e){2}", "traversal-dotdotpwn-005"),
    ),
    "the same for an encoded NUL, or a percent sign that begins no encoding": (
        *(rb"(?i)\A\S+ \S*%(?:00|(?![0-9a-f]{2}))", "MAL-URL-PERCENT-NULL"),
    ),
    "nginx has no OPTIONS *": (rb"\AOPTIONS \* ", "COMP-OPTIONS-STAR"),
    "nginx has no TRACE; ours carries no credentials": (rb"\ATRACE ", "COMP-METHOD-TRACE"),
    "nginx strips spaces around a length, but no tabs (RFC 9110, 5.6.3 has both)": (
        *(rb"(?i)\nContent-Length:[^\r\n]*\t", "MAL-CL-TAB-BEFORE-VALUE"),
    ),
    "nginx refuses a second If-Match": (rb"\nIf-Match:.*\r\nIf-Match:", "gunicorn-valid-017"),
}
_CONFIG = """
daemon off;
master_process off;
pid {folder}/pid;
error_log {folder}/errors crit;
events {{ }}
http {{
    access_log off;
    server_tokens off;
    client_body_temp_path {folder}/1;
    proxy_temp_path {folder}/2;
    fastcgi_temp_path {folder}/3;
    uwsgi_temp_path {folder}/4;
    scgi_temp_path {folder}/5;
    keepalive_requests 1000000;
    merge_slashes off;
    client_max_body_size 0;
    large_client_header_buffers 8 64k;
    server {{
        listen unix:{folder}/socket;
        location / {{
            proxy_pass http://{upstream};
            proxy_http_version 1.1;
            proxy_set_header Connection "";
        }}
    }}
}}
"""

#: What went up for one row.
Sent = list[tuple[bytes, bytes, bytes]]


@contextlib.asynccontextmanager
async def nginx_lane() -> AsyncIterator[Lane]:
    """Run nginx on a unix socket in front of a strict upstream."""
    assert NGINX is not None
    upstream = Upstream(plain=True)
    await upstream.start()
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    config = folder / "nginx.conf"
    config.write_text(_CONFIG.format(folder=folder, upstream=upstream.authority))
    null = asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(
        *(NGINX, "-p", str(folder), "-e", f"{folder}/errors", "-c", str(config)), stdin=null, stdout=null, stderr=null
    )
    lane = Lane(f"unix:{folder}/socket", upstream)
    try:
        async with asyncio.timeout(10):
            while True:
                with contextlib.suppress(ConnectionError, FileNotFoundError):
                    await lane.probe()
                    break
                assert process.returncode is None, (folder / "errors").read_text()
                await asyncio.sleep(0.01)
        yield lane
    finally:
        await lane.stop()
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        await upstream.stop()
        shutil.rmtree(folder)


async def _sent(lane: Lane, rows: Sequence[Row]) -> dict[str, Sent]:
    sent = {}
    for row in rows:
        heads = [message.start[0] == b"HEAD" for message in requests_in(row.raw)]
        outcome = await lane.play(row.raw, heads=heads)
        sent[row.name] = [request.what for request in outcome.requests]
    return sent


def _difference(ours: Sent, theirs: Sent) -> str | None:
    """Say what of ours nginx did not send up alike, in order; it may send more, since we end some connections earlier."""
    rest = iter(theirs)
    for method, target, body in ours:
        ways = [(method, target, body), (method, target.removeprefix(b"/v3"), body), (method, target[3:] or b"/", body)]
        if not any(sent in ways for sent in rest):
            return f"{(method, target, body)} is not among {theirs}"
    return None


@needs("malformed-requests.json")
@_needs_nginx
@timeout()
async def test_nginx_reads_what_we_send_up_in_the_same_way() -> None:
    rows = sample(requests(), 3, always=[row for _, row in REFUSED.values()])
    async with proxy_lane(CALLERS__ALLOWED_HOSTS=allowed(requests())) as lane:
        ours = {name: sent for name, sent in (await _sent(lane, rows)).items() if sent}
    async with nginx_lane() as nginx:
        sent_up = [row for row in rows if row.name in ours]
        theirs = await _sent(nginx, sent_up)
        assert nginx.upstream.faults == []
        # What seems to be taken may be the end of the row before, which came up late: looked at once more, alone.
        taken = {row for _, row in REFUSED.values() if theirs.get(row)}
        theirs |= await _sent(nginx, [row for row in sent_up if row.name in taken])
    refused = {row.name for row in sent_up if not theirs[row.name]}
    explained = {row.name for row in sent_up for look, _ in REFUSED.values() if re.search(look, row.raw)}
    assert refused - explained == set()
    assert {row for _, row in REFUSED.values()} - refused == set(), "nginx takes these now: take them off the list"
    different = {name: _difference(sent, theirs[name]) for name, sent in ours.items() if name not in refused}
    assert {name: fault for name, fault in different.items() if fault} == {}
    assert len(different) > len(rows) / 8, "too few were accepted to tell anything"


@_needs_nginx
@timeout()
def test_nginx_reads_mutated_requests_that_we_send_up_in_the_same_way() -> None:
    compared = 0
    with running(CALLERS__ALLOWED_HOSTS="localhost,example.com") as (runner, lane):
        context = nginx_lane()
        nginx = runner.run(context.__aenter__())

        def check(data: bytes) -> None:
            nonlocal compared
            ours = [request.what for request in runner.run(lane.play(data)).requests]
            if not ours:
                return
            outcome = runner.run(nginx.play(data))
            theirs = [request.what for request in outcome.requests]
            if any(status >= 400 for status in outcome.statuses):
                # It refused one and ended there: what both sent up before that is the same.
                assert _difference(ours[: len(theirs)], theirs) is None
            else:
                compared += 1
                assert _difference(ours, theirs) is None

        try:
            explore(check, mutated(REQUESTS), examples=300)
        finally:
            runner.run(context.__aexit__(None, None, None))
    assert compared > 30, "too few were accepted by both to tell anything"
