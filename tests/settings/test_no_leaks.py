"""Whatever a secret is, and wherever it is wrong, no message shows it."""

from __future__ import annotations

import tempfile
import traceback
from pathlib import Path

import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from proxy.settings import Settings, SettingsError, describe, load_settings

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
