"""File < environment < flags; unknown names, broken files and empty values."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from proxy.settings import SettingsError, load_settings
from proxy.settings.model import leaves

if TYPE_CHECKING:
    from tests.settings.conftest import Faults, Load, Write


def test_defaults_need_an_application_id_only(load: Load) -> None:
    settings = load(APP_ID="abc")
    assert settings.app_id.reveal() == "abc"
    assert settings.upstream.origin == "https://sandbox-api.cardcash.com"


def test_environment_beats_file_and_flags_beat_both(load: Load) -> None:
    text = "session: {renew_ahead: 1s, idle_after: 1s, eager: false}"
    settings = load(text, {"session.renew_ahead": "3s"}, SESSION__RENEW_AHEAD="2s", SESSION__IDLE_AFTER="2s")
    assert (settings.session.renew_ahead, settings.session.idle_after, settings.session.eager) == (3.0, 2.0, False)


def test_a_list_of_a_higher_source_replaces_the_lower_one(load: Load) -> None:
    assert load("callers: {allowed_hosts: [a, b]}", CALLERS__ALLOWED_HOSTS="c").callers.allowed_hosts == ("c",)


def test_configuration_file_named_by_the_environment(write: Write) -> None:
    path = write("app_id: from-file", "other.yaml")
    assert load_settings(environ={"CARDCASH_CONFIG": str(path)}).app_id.reveal() == "from-file"


def test_the_config_argument_beats_the_variable(write: Write) -> None:
    path = write("app_id: from-argument", "a.yaml")
    settings = load_settings(config=path, environ={"CARDCASH_CONFIG": "/nowhere"})
    assert settings.app_id.reveal() == "from-argument"


def test_the_process_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CARDCASH_APP_ID", "from-process")
    monkeypatch.setenv("LISTEN", "must not be read")
    assert load_settings().app_id.reveal() == "from-process"


def test_missing_application_id_says_how_to_set_it() -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(environ={})
    (fault,) = caught.value.faults
    assert all(word in fault for word in ("CARDCASH_APP_ID", "app_id_file", "app_id is not set"))


@pytest.mark.parametrize("name", ["APP_ID", "UPSTREAM__CONNECT_TIMEOUT", "LOGIN__EMAIL", "ENVIRONMENT"])
def test_an_empty_variable_counts_as_not_set(load: Load, name: str) -> None:
    text = "app_id: a\nupstream: {connect_timeout: 7}\nlogin: {email: a@b, password: x}\nenvironment: production"
    assert load(text, **{name: ""}) == load(text)


def test_an_empty_application_id_is_called_empty(faults: Faults) -> None:
    assert "CARDCASH_APP_ID is there, but empty" in faults(APP_ID=" ")[0]


@pytest.mark.parametrize("empty", ["", " "])
@pytest.mark.parametrize("path", [path for path, leaf in leaves().items() if leaf.needs_value])
def test_an_empty_variable_of_a_list_or_a_guard_counts_as_not_set_either(load: Load, path: str, empty: str) -> None:
    text = (
        "listen: [127.0.0.1:1]\nadmin: {listen: [127.0.0.1:2]}\nrules: [{deny: /a}]\n"
        "callers: {allowed_hosts: [a], allowed_origins: [https://a], allowed_networks: [10.0.0.0/8], require_header: 'A: b'}"
    )
    variable = {path.upper().replace(".", "__"): empty}
    assert load(text, **variable) == load(text)
    assert load(**variable) == load()


@pytest.mark.parametrize("path", ["callers.allowed_hosts", "callers.allowed_networks"])
def test_a_list_that_would_serve_nobody_is_an_error_wherever_it_stands(faults: Faults, path: str) -> None:
    group, _, name = path.partition(".")
    variable = path.upper().replace(".", "__")
    for found in (faults(f"{group}: {{{name}: []}}"), faults(None, {path: ","}), faults(**{variable: "[]"})):
        (fault,) = found
        assert fault.startswith(f"{path} (") and "would serve nobody" in fault and "leave it out" in fault


def test_a_wide_listen_address_is_not_allowed_by_an_empty_variable(faults: Faults) -> None:
    (fault,) = faults(LISTEN="0.0.0.0:8080", CALLERS__ALLOWED_NETWORKS="")
    assert fault.startswith("listen (") and "set callers.allowed_networks" in fault


def test_an_empty_base_path_is_none(load: Load) -> None:
    assert load(UPSTREAM__BASE_PATH="").upstream.base_path == ""


def test_an_empty_flag_unsets_an_optional_setting(load: Load) -> None:
    assert load("log: {format: json}", {"log.format": ""}).log.format is None


def test_keys_without_a_value_count_as_not_given(load: Load) -> None:
    settings = load("app_id: a\nenvironment:\nupstream:\nlogin:\n  email: ~\n")
    assert settings == load("app_id: a")


def test_an_empty_file_gives_nothing(load: Load) -> None:
    assert load("# nothing\n") == load()


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("APPID", "CARDCASH_APP_ID"),
        ("UPSTREAM_ORIGIN", "CARDCASH_UPSTREAM__ORIGIN"),
        ("LOG__LEVLE", "CARDCASH_LOG__LEVEL"),
        ("WORKRES", "CARDCASH_WORKERS"),
    ],
)
def test_unknown_variable(faults: Faults, name: str, hint: str) -> None:
    assert faults(APP_ID="a", **{name: "x"}) == [
        f'environment variable CARDCASH_{name} is not a setting; did you mean "{hint}"?'
    ]


def test_variables_that_are_like_no_setting_are_counted_and_not_named(faults: Faults) -> None:
    assert faults(APP_ID="a", ZZZZ="1", QQQQ="2", KKKK="3") == [
        "environment variable CARDCASH_… (its name is not repeated, since it may be a secret) is not a setting "
        "(3 such variables)"
    ]


def test_a_name_that_is_not_repeated_and_yet_like_a_setting_is_not_called_unlike(faults: Faults) -> None:
    assert faults(APP_ID="a", WORKERS7="1") == [
        "environment variable CARDCASH_… (its name is not repeated, since it may be a secret) is not a setting; "
        'did you mean "CARDCASH_WORKERS"?'
    ]


@pytest.mark.parametrize("break_", ["\n", "\x1b[31m", "\u2028"])
def test_a_name_with_a_line_break_is_one_line_of_faults(faults: Faults, break_: str) -> None:
    text = f'app_id: a\n"work{break_!r}ers": 1\nrules: [{{"den{break_!r}y": /a}}]\n'.replace("'", "")
    for fault in (*faults(text), *faults(APP_ID="a", **{f"WORK{break_}ERS": "1"})):
        assert fault.isprintable()


def test_a_group_is_no_variable(faults: Faults) -> None:
    (fault,) = faults(UPSTREAM="{}")
    assert fault == "environment variable CARDCASH_UPSTREAM is not a setting; it is a group, set its members"


def test_lower_case_variables_are_not_ours() -> None:
    environ = {"CARDCASH_APP_ID": "a", "cardcash_app_idd": "x", "PATH": "/bin"}
    assert load_settings(environ=environ).app_id.reveal() == "a"


KUBERNETES = {
    "SERVICE_HOST": "10.0.0.1",
    "SERVICE_PORT": "8080",
    "SERVICE_PORT_HTTP": "8080",
    "PORT": "tcp://10.0.0.1:8080",
    "PORT_8080_TCP": "tcp://10.0.0.1:8080",
    "PORT_8080_TCP_PROTO": "tcp",
    "PORT_8080_TCP_PORT": "8080",
    "PORT_8080_TCP_ADDR": "10.0.0.1",
}


@pytest.mark.parametrize("service", ["PROXY_", "", "PROXY_ADMIN_"])
def test_variables_of_kubernetes_services_are_ignored(load: Load, service: str) -> None:
    assert load(**{service + name: value for name, value in KUBERNETES.items()}) == load()


def test_a_port_of_ones_own_is_not_taken_for_kubernetes(faults: Faults) -> None:
    (fault,) = faults(PORT="8080")
    assert fault.startswith("environment variable CARDCASH_… (")
    assert "is not a setting" in fault


@pytest.mark.parametrize("path", ["app_id", "login.password"])
def test_a_secret_is_no_flag(faults: Faults, path: str) -> None:
    (fault,) = faults(None, {path: "hunter2"})
    assert "can be read by others" in fault
    assert "_FILE" not in fault
    assert "-file" in fault


def test_a_required_header_is_a_flag_only_with_a_file(load: Load, faults: Faults, write: Write) -> None:
    path = write("hunter2")
    header = load(None, {"callers.require_header": f"X-Key: {path}"}).callers.require_header
    assert header is not None
    assert header.file == path
    assert "can be read by others" in faults(None, {"callers.require_header": "X-Key: hunter2"})[0]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("appid: x", 'appid (FILE line 1) is not a setting; did you mean "app_id"?'),
        ("upstream:\n  orgin: x", 'upstream.orgin (FILE line 2) is not a setting; did you mean "upstream.origin"?'),
        ("origin: x", 'origin (FILE line 1) is not a setting; did you mean "upstream.origin"?'),
        ("renew-ahead: x", 'renew-ahead (FILE line 1) is not a setting; did you mean "session.renew_ahead"?'),
        ("limits:\n  foo: 1", "a key of limits (FILE line 2) is not a setting"),
        ("upstreams: {}", 'upstreams (FILE line 1) is not a setting; did you mean "upstream"?'),
        ("zzzz: 1", "a key (FILE line 1) is not a setting"),
        ("login:\n  zzzz: 1", "a key of login (FILE line 2) is not a setting"),
        ("login: hunter2", "login (FILE line 1) is a group: write its settings indented below it"),
        ("login: [hunter2]", "login (FILE line 1) is a group: write its settings indented below it"),
    ],
)
def test_unknown_key(faults: Faults, tmp_path: Path, text: str, fault: str) -> None:
    assert faults(text) == [fault.replace("FILE", str(tmp_path / "proxy.yaml"))]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: b: c", "is not valid YAML, line 1: mapping values are not allowed"),
        ("app_id: x\n\tlog: {}", "is not valid YAML, line 2"),
        ("app_id: x\nlog:\n\tlevel: info", "is not valid YAML, line 3: a tab stands where blanks must"),
        ("app_id: @hunter2", "is not valid YAML, line 1: a value begins with a character that YAML keeps for itself"),
        ("app_id: x\nlisten: [a, b", "is not valid YAML, line 2: a list or group in brackets is not closed"),
        ("log: {level: info", "is not valid YAML, line 1: a list or group in brackets is not closed"),
        ("app_id: 'hunter2", "is not valid YAML, line 1: a quote is opened and never closed"),
        ("app_id: 'hunter2\nlog: {}\n", "is not valid YAML, line 1: a quote is opened and never closed"),
        ("log:\n  level: info\n format: json", "is not valid YAML, line 3: the line is not indented like those above"),
        ("app_id: x\nlogin\nlog: {}", "is not valid YAML, line 3: a key has no colon after it"),
        ("a: 1\n---\nb: 2", "a second document begins"),
        ("login: {password: *hunter2}", "is not valid YAML, line 1: found undefined alias; put"),
        ("- app_id", "line 1: must be a mapping"),
        ("hunter2", "line 1: must be a mapping"),
        ("a: 1\n---\nb: 2", "is not valid YAML, line 2"),
        ("a: \x01", "characters that YAML does not allow"),
        ("[" * 5000, "is nested too deeply"),
    ],
)
def test_broken_file(faults: Faults, tmp_path: Path, text: str, problem: str) -> None:
    (fault,) = faults(text)
    fault = fault.replace(str(tmp_path), "")
    assert problem in fault
    assert "hunter2" not in fault


def test_a_key_twice_is_named_with_both_lines(faults: Faults) -> None:
    assert (
        "line 3: eager stands here a second time (first in line 2)" in faults("session:\n  eager: true\n  eager: no")[0]
    )


def test_a_key_must_be_a_word(faults: Faults) -> None:
    assert "line 1: a key must be a plain word" in faults("[a, b]: c")[0]


def test_missing_file_is_one_fault_beside_the_others(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(config=tmp_path / "none.yaml", environ={"CARDCASH_LOG__LEVEL": "loud", "CARDCASH_X": ""})
    assert [fault.split(":")[0] for fault in caught.value.faults] == [
        f"configuration file {tmp_path / 'none.yaml'} (--config) cannot be read",
        "environment variable CARDCASH_… (its name is not repeated, since it may be a secret) is not a setting",
        "log.level (environment variable CARDCASH_LOG__LEVEL)",
    ]


def test_a_file_that_is_no_text(write: Write) -> None:
    with pytest.raises(SettingsError, match="is not UTF-8 text"):
        load_settings(config=write(b"\xff\xff"), environ={})


def test_a_huge_file_is_not_read(write: Write) -> None:
    with pytest.raises(SettingsError, match="larger than 1 MiB"):
        load_settings(config=write(b"#" * (1024 * 1024 + 1)), environ={})


@pytest.mark.parametrize("text", ["12345", "0123", "1e5", "0x1F", "2024-01-31", "22:30", "1_000", "2.50"])
def test_scalars_are_the_texts_that_stand_there(load: Load, text: str) -> None:
    assert load(f"app_id: {text}").app_id.reveal() == text


def test_a_quoted_word_is_a_text(load: Load) -> None:
    assert load("app_id: 'true'").app_id.reveal() == "true"


def test_an_address_is_no_sexagesimal_number(load: Load) -> None:
    assert [str(a) for a in load("admin: {listen: localhost:22}\nlisten: 127.0.0.1:8080").listen] == ["127.0.0.1:8080"]


@pytest.mark.parametrize("word", ["yes", "true", "off"])
def test_a_boolean_is_no_text(faults: Faults, word: str) -> None:
    assert "put it in quotes" in faults(f"app_id: {word}")[0]


def test_a_tag_is_no_text(faults: Faults) -> None:
    assert faults("app_id: !hunter2")[0].endswith("a value that begins with ! must be put in quotes")


@pytest.mark.parametrize("value", ["[hunter2]", "{hunter2: x}"])
def test_a_list_or_mapping_is_no_text(faults: Faults, value: str) -> None:
    assert faults(f"app_id: {value}")[0].endswith("must be one text, not a list or a group of settings")


@pytest.mark.parametrize("text", ["listen: 'localhost:1, [::1]:2'", "listen: ['localhost:1', '[::1]:2']"])
def test_lists_in_the_file(load: Load, text: str) -> None:
    assert [str(address) for address in load(text).listen] == ["localhost:1", "[::1]:2"]


@pytest.mark.parametrize("text", ["localhost:1,[::1]:2", '["localhost:1", "[::1]:2"]'])
def test_lists_in_the_environment(load: Load, text: str) -> None:
    assert [str(address) for address in load(LISTEN=text).listen] == ["localhost:1", "[::1]:2"]
