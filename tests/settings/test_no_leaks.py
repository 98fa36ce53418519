"""Whatever a secret is, and wherever it is wrong, no message shows it."""

from __future__ import annotations

import tempfile
import traceback
from pathlib import Path

import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from proxy.settings import Settings, SettingsError, describe, load_settings
from tests.whole.processes import run

#: Stands in every secret and in no message of ours (hypothesis draws words from this project's own sources too).
MARK = "xQ9z"
ANY = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
PLAIN = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=20)
SECRETS = st.builds(
    lambda form, start, mark, end: form + start + mark + end,
    st.sampled_from(["", "", "", "/", "file:", "*", "&", "!", "@", "[", "{", "redis://"]),
    ANY | PLAIN,
    st.just(MARK),
    ANY | PLAIN,
)


def everything_shown(environ: dict[str, str], config: Path | None = None, flags: dict[str, str] | None = None) -> str:
    try:
        loaded = load_settings(config=config, environ=environ, flags=flags)
    except SettingsError as error:
        return "\n".join([str(error), repr(error), *traceback.format_exception(error)])
    assert isinstance(loaded, Settings)
    return describe(loaded) + repr(loaded) + str(loaded)


def assert_hidden(shown: str) -> None:
    assert MARK.lower() not in shown.lower()


@settings(deadline=None)
@given(SECRETS)
def test_in_the_environment(secret: str) -> None:
    environ = {
        "CARDCASH_APP_ID": secret,
        "CARDCASH_LOGIN__EMAIL": "a@b.c",
        "CARDCASH_LOGIN__PASSWORD": secret,
        "CARDCASH_CALLERS__REQUIRE_HEADER": f"X-Key: {secret}",
        "CARDCASH_SESSION__STORE": f"redis://:{secret}@host/0",
        "CARDCASH_UPSTREAM__ORIGIN": f"https://user:{secret}@host",
        "CARDCASH_LOGIN__PASSWROD": secret,
    }
    assert_hidden(everything_shown(environ))


@settings(deadline=None)
@given(SECRETS)
def test_in_the_environment_without_other_faults(secret: str) -> None:
    environ = {"CARDCASH_APP_ID": "x", "CARDCASH_LOGIN__EMAIL": "a@b.c", "CARDCASH_LOGIN__PASSWORD": secret}
    assert_hidden(everything_shown(environ))


@settings(deadline=None)
@given(SECRETS)
def test_as_a_required_header(secret: str) -> None:
    for text in (secret, f"X-Key: {secret}", f"X Key: {secret}"):
        shown = everything_shown({"CARDCASH_APP_ID": "x", "CARDCASH_CALLERS__REQUIRE_HEADER": text})
        # A name before a colon is a header's name, and shown as such.
        if text != secret or ":" not in secret:
            assert_hidden(shown)


@settings(deadline=None)
@given(SECRETS)
def test_as_a_flag(secret: str) -> None:
    flags = {"app_id": secret, "login.password": secret, "callers.require_header": f"X: {secret}"}
    assert_hidden(everything_shown({}, flags=flags))


@settings(deadline=None)
@given(SECRETS, st.sampled_from(["dump", "plain", "list", "mapping"]))
def test_in_a_file(secret: str, form: str) -> None:
    value: object = {"list": [secret], "mapping": {secret: secret}}.get(form, secret)
    document = {
        "app_id": value,
        "login": {"email": "a@b.c", "password": value},
        "callers": {"require_header": value if form != "dump" else f"X: {secret}"},
        "session": {"store": value},
    }
    text = yaml.safe_dump(document, allow_unicode=True)
    if form == "plain":  # as people write it, valid or not
        text = f"app_id: {secret}\nlogin:\n  email: a@b.c\n  password: {secret}\n"
        # A line break or a colon makes keys of a secret's parts, which cannot be told from misspelt settings.
        assume(not any(c in secret for c in "\n\r\x85\u2028\u2029:"))
    else:
        assume(":" not in secret)
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "proxy.yaml"
        config.write_bytes(text.encode("utf-8", "surrogatepass"))
        assert_hidden(everything_shown({}, config))


@settings(deadline=None)
@given(st.binary(max_size=30), st.binary(max_size=30))
def test_in_a_secret_file(start: bytes, end: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "secret"
        path.write_bytes(start + MARK.encode() + end)
        environ = {"CARDCASH_APP_ID_FILE": str(path), "CARDCASH_CALLERS__REQUIRE_HEADER": f"X-Key: {path}"}
        assert_hidden(everything_shown(environ))


# In the wrong place

#: What an application id may look like, and where it may be put by mistake.
IDS = ["xQ9z", "xQ9z-app", "app-id-xQ9z", "6f1e-xQ9z-77", "xQ9zxQ9zxQ9zxQ9z", "xq9z_a.b.c", "XQ9Z"]


@pytest.mark.parametrize("secret", IDS)
@pytest.mark.parametrize(
    "name", ["APP_ID_FILE", "LOGIN__PASSWORD_FILE", "CALLERS__REQUIRE_HEADER", "SESSION__STORE", "UPSTREAM__ORIGIN"]
)
@pytest.mark.parametrize("before", ["", "/", "./", "file:", "file:///", "X-Key: /", "X-Key: file:"])
def test_as_the_name_of_a_file(secret: str, name: str, before: str) -> None:
    if name == "UPSTREAM__ORIGIN":
        before = "https://user:pw@"
    environ = {"CARDCASH_APP_ID": "x", "CARDCASH_LOGIN__EMAIL": "a@b.c", f"CARDCASH_{name}": before + secret}
    if name == "APP_ID_FILE":
        del environ["CARDCASH_APP_ID"]
    assert_hidden(everything_shown(environ))


@pytest.mark.parametrize("secret", IDS)
@pytest.mark.parametrize("name", ["{}", "APP_ID_{}", "APP_ID__{}", "{}_APP_ID", "UPSTREAM__{}", "LOGIN__PASSWORD_{}"])
def test_as_the_name_of_a_variable(secret: str, name: str) -> None:
    assert_hidden(everything_shown({"CARDCASH_APP_ID": "x", f"CARDCASH_{name.format(secret)}": "1"}))
    assert_hidden(everything_shown({"CARDCASH_APP_ID": "x", f"CARDCASH_{name.format(secret.upper())}": "1"}))


@pytest.mark.parametrize("secret", IDS)
@pytest.mark.parametrize(
    "text",
    [
        "{}:",
        "{}: {}",
        "{}: 1\n{}: 2",
        "app_id:\n  {}:",
        "app_id: {{{}: 1, {}: 2}}",
        "app_id_{}: 1",
        "login:\n  {}: 1",
        "login:\n  password:\n    {}: 1",
        "login: {{password_{}: 1}}",
        "callers: {{require_header: {{X-Key: {}}}}}",
        "callers: {{require_header: {{{}: X-Key}}}}",
        "rules: [{{{}: /a}}]",
        "rules: [{{deny: {{{}: /a}}}}]",
        "rules: [{{deny: /a, {}: 1, {}: 2}}]",
        "app_id_file: {}",
        "login: {{email: a@b, password_file: {}}}",
        "? [{}]\n: 1",
        "app_id: *{}",
        "app_id: !{} x",
        "%{} x",
        "app_id: x\n  {}",
        "'{}",
    ],
)
def test_as_a_key_or_beside_one_in_a_file(tmp_path: Path, secret: str, text: str) -> None:
    (tmp_path / "proxy.yaml").write_text(text.format(secret, secret))
    environ = {} if text.startswith("app_id:") else {"CARDCASH_APP_ID": "x"}
    assert_hidden(everything_shown(environ, tmp_path / "proxy.yaml"))


@pytest.mark.parametrize("secret", ["xQ9z", "app-id-xQ9z", "6f1e-xQ9z-77"])
@pytest.mark.parametrize("words", ["check {}", "check --{}", "check --app-id-{}", "{}", "session {}", "--{} check"])
async def test_as_a_word_on_the_command_line(secret: str, words: str) -> None:
    done = await run(*words.format(secret).split(), CARDCASH_APP_ID="x")
    assert done.process.returncode == 2
    assert_hidden(done.text)


async def test_check_shows_none_of_them(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("b-xQ9z")
    done = await run(
        "check",
        CARDCASH_APP_ID="a-xQ9z",
        CARDCASH_LOGIN__EMAIL="a@b.c",
        CARDCASH_LOGIN__PASSWORD_FILE=str(tmp_path / "password"),
        CARDCASH_CALLERS__REQUIRE_HEADER="X-Key: c-xQ9z",
    )
    assert done.process.returncode == 0
    assert_hidden(done.text)
