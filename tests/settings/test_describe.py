"""The effective configuration, the flags, and config/proxy.yaml say the same as the model."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from proxy.settings import describe, load_settings
from proxy.settings import load as load_with_origins
from proxy.settings.describe import help_of, readable, without_credentials
from proxy.settings.model import leaves

if TYPE_CHECKING:
    from tests.settings.conftest import Load, Write

EXAMPLE = Path(__file__).parents[2] / "config" / "proxy.yaml"
#: What the example shows in notes only, since it would clash with the `_file` form beside it.
IN_NOTES = {path for path, leaf in leaves().items() if leaf.hidden}


def leaf_paths(document: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in document.items():
        if isinstance(value, dict):
            yield from leaf_paths(value, f"{prefix}{key}.")
        else:
            yield prefix + key


def uncommented() -> str:
    return re.sub(r"^# (?! *#)", "", EXAMPLE.read_text().split("\n\n", 1)[1], flags=re.MULTILINE)


def test_every_key_is_shown(load: Load) -> None:
    assert list(leaf_paths(yaml.safe_load(describe(load())))) == list(leaves())


def test_durations_and_sizes_are_readable(load: Load) -> None:
    shown = yaml.safe_load(describe(load()))
    assert (shown["session"]["renew_ahead"], shown["limits"]["request_body"]) == ("5m", "10MiB")


def test_secrets_are_not_shown(load: Load, write: Write) -> None:
    path = write("hunter2")
    text = (
        f"app_id: hunter2\nlogin: {{email: a@b, password_file: {path}}}\ncallers: {{require_header: 'X-Key: hunter2'}}"
    )
    settings = load(text)
    shown = yaml.safe_load(describe(settings))
    assert shown["app_id"] == shown["login"]["password"] == "********"
    assert shown["callers"]["require_header"] == "X-Key: ********"
    assert shown["login"]["password_file"] == str(path)
    assert "hunter2" not in describe(settings)
    assert "hunter2" not in repr(settings)


def test_a_header_from_a_file_is_shown_with_it(load: Load, write: Write) -> None:
    path = write("hunter2")
    shown = yaml.safe_load(describe(load(CALLERS__REQUIRE_HEADER=f"X-Key: {path}")))
    assert shown["callers"]["require_header"] == f"X-Key: file:{path}"


@pytest.mark.parametrize("url", ["redis://:hunter2@host/0", "rediss://user:hunter2@host", "redis://u:hun@ter2@host"])
def test_credentials_in_urls_are_not_shown(url: str) -> None:
    scheme, path = url.partition("://")[0], url.partition("@host")[2]
    assert without_credentials(url) == f"{scheme}://********@host{path}"
    assert readable(url) == without_credentials(url)


def test_what_is_shown_can_be_loaded_again(load: Load) -> None:
    text = """
app_id: x
login: {email: a@b, password: y}
listen: [127.0.0.1:1, '[::1]:2', 'unix:/x']
callers: {allowed_hosts: ['*.a', '::1'], allowed_networks: [10.0.0.0/8], require_header: 'A: b'}
rules: [{deny: /a, methods: [GET, POST]}, {allow: /b}]
session: {renew_ahead: 1.25s}
"""
    first = describe(load(text))
    assert describe(load(first)) == first


def test_beside_each_value_stands_where_it_comes_from(write: Write) -> None:
    config, secret = write("limits: {in_flight: 7}\nsession:\n  eager: false\n", "proxy.yaml"), write("hunter2")
    environ = {"CARDCASH_APP_ID_FILE": str(secret), "CARDCASH_ENVIRONMENT": "production"}
    loaded = load_with_origins(config=config, environ=environ, flags={"limits.in_flight": "8"})
    shown = describe(loaded.settings, loaded.where)
    notes = dict(re.split(r":? .*# |: *# ", line.strip(), maxsplit=1) for line in shown.splitlines() if "#" in line)
    assert {notes.pop(name) for name in ("app_id", "app_id_file")} == {
        "secret file, environment variable CARDCASH_APP_ID_FILE",
        "environment variable CARDCASH_APP_ID_FILE",
    }
    assert notes.pop("environment") == "environment variable CARDCASH_ENVIRONMENT"
    assert notes.pop("origin") == "picked by environment"
    assert notes.pop("eager") == f"{config} line 3"
    assert notes.pop("in_flight") == "flag --limits-in-flight"
    assert set(notes.values()) == {"default"}
    assert list(leaf_paths(yaml.safe_load(shown))) == list(leaves())
    assert "hunter2" not in shown


def test_flags_cover_every_setting_and_explain_it() -> None:
    assert {path for path, leaf in leaves().items() if leaf.hidden} == {
        *("app_id", "login.password", "session.store_secret", "session.store_sentinel_password"),
    }
    assert all(help_of(leaf) for leaf in leaves().values())
    assert next(iter(leaves())) == "app_id"


def test_every_secret_has_a_file_form() -> None:
    assert {f"{path}_file" for path, leaf in leaves().items() if leaf.file} <= set(leaves())


def test_variables_follow_the_paths() -> None:
    assert leaves()["upstream.ca_file"].variable == "CARDCASH_UPSTREAM__CA_FILE"


def test_the_example_loads_as_it_is(load: Load) -> None:
    assert load(EXAMPLE.read_text(), APP_ID="an-app-id") == load()


def test_the_example_uncommented_loads_and_is_the_default(load: Load, write: Write) -> None:
    path = write("an-app-id")
    settings = load(uncommented().replace("/run/secrets/cardcash-app-id", str(path)))
    assert settings.app_id_file == path
    assert replace(settings, app_id_file=None) == load()


def test_any_line_of_the_example_uncommented_with_its_group_is_a_valid_file(load: Load, write: Write) -> None:
    path = write("an-app-id")
    lines = EXAMPLE.read_text().replace("/run/secrets/cardcash-app-id", str(path)).splitlines()
    group = 0
    for number, line in enumerate(lines):
        if number < 8 or not re.match(r"# (?! *#)", line):
            continue
        group = group if line.startswith("#  ") else number
        shown = [text.removeprefix("# ") if n in (group, number) else text for n, text in enumerate(lines)]
        load("\n".join(shown), APP_ID="" if "app_id_file" in line else "an-app-id")


def test_the_example_has_every_setting_and_no_other() -> None:
    paths = list(leaf_paths(yaml.safe_load(uncommented())))
    assert [path for path in leaves() if path not in IN_NOTES] == paths
    for path in IN_NOTES:
        assert f"(instead of {path.rpartition('.')[2]}_file)  {path.rpartition('.')[2]}:" in EXAMPLE.read_text()


def test_the_example_shows_the_defaults_as_check_does(load: Load) -> None:
    shown = yaml.safe_load(describe(load_settings(environ={"CARDCASH_APP_ID": "x"})))
    example = yaml.safe_load(uncommented())
    for path in IN_NOTES - {"app_id"}:
        group, _, name = path.partition(".")
        shown[group].pop(name)
    shown["upstream"]["user_agent"] = None
    assert {**shown, "app_id_file": example["app_id_file"]} == {"app_id": "********", **example}
