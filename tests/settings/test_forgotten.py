"""What was forgotten or cannot be meant is an error, never a guess: least of all where a guess would let somebody in."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from proxy.core import values
from proxy.core.values import Bad
from proxy.settings import describe, parsing
from proxy.settings.model import leaves
from proxy.settings.rules import rule
from tests.whole.processes import run

if TYPE_CHECKING:
    from tests.settings.conftest import Faults, Load, Write

LISTS = [path for path, leaf in leaves().items() if leaf.needs_value]


def _yaml(path: str, value: str) -> str:
    *parents, name = path.split(".")
    return "".join(f"{parent}: {{" for parent in parents) + f"{name}: {value}" + "}" * len(parents)


# Values that are not there


@pytest.mark.parametrize("path", LISTS)
def test_a_list_or_a_guard_whose_value_was_forgotten_is_an_error(faults: Faults, path: str) -> None:
    (fault,) = faults(_yaml(path, ""))
    assert fault.startswith(f"{path} (")
    assert "has no value" in fault


@pytest.mark.parametrize("path", [path for path in LISTS if leaves()[path].default is not None])
@pytest.mark.parametrize("null", ["null", "~"])
def test_null_is_no_list(faults: Faults, path: str, null: str) -> None:
    (fault,) = faults(_yaml(path, null))
    assert "has no value" in fault


@pytest.mark.parametrize("path", [path for path in LISTS if leaves()[path].default is None])
def test_null_is_the_default_where_that_is_what_check_shows_for_it(load: Load, path: str) -> None:
    assert f"{path.rpartition('.')[2]}: null\n" in describe(load())
    assert load(_yaml(path, "null")) == load()


@pytest.mark.parametrize("path", [path for path in LISTS if path != "callers.require_header"])
@pytest.mark.parametrize("null", ["[null]", "[]", "['']", "[{}]", "{}"])
def test_nothing_inside_a_list_is_an_error_or_an_empty_list(load: Load, faults: Faults, path: str, null: str) -> None:
    if null == "[]" and path in ("rules", "callers.allowed_origins"):
        *parents, name = path.split(".")
        found = load(_yaml(path, null))
        for parent in parents:
            found = getattr(found, parent)
        assert getattr(found, name) == ()
    else:
        assert len(faults(_yaml(path, null))) == 1


@pytest.mark.parametrize(
    "spelling",
    [
        *[{"allow": None}, {"allow": ""}, {"allow": " "}, {"deny": None, "methods": ["GET"]}, {"action": None}],
        *[{"allow": {"path": None}}, {"allow": {"path": "", "methods": "GET"}}, {"deny": "/a", "methods": None}],
        *[{"action": "allow", "path": None}, {"deny": None, "path": None}, {"deny": "/a", "methods": [None]}],
        *[{"deny": "/a", "methods": ""}, None, "", {}],
    ],
)
def test_a_rule_with_a_part_whose_value_was_forgotten_is_an_error(spelling: object) -> None:
    with pytest.raises(Bad):
        rule(spelling)


@pytest.mark.parametrize("text", ["rules: [{allow: }]", "rules:\n- allow:\n  methods: [GET]", "rules:\n- allow:"])
def test_a_forgotten_path_is_not_all_paths(faults: Faults, text: str) -> None:
    (fault,) = faults(text)
    assert fault.startswith("rules[0] (")
    assert "/**" in fault, "it says how all paths are written"


def test_a_forgotten_path_is_no_path_in_the_environment_either(faults: Faults) -> None:
    assert len(faults(RULES='[{"allow": null}]')) == 1


@pytest.mark.parametrize("name", ['" "', '"a\\0b"'])
def test_a_file_whose_name_cannot_be_one_is_told(faults: Faults, name: str) -> None:
    (fault,) = faults(f"upstream: {{ca_file: {name}}}")
    assert "must be the name of a file" in fault


# Numbers

SCRIPTS = [
    *[
        "٣",
        "３",
        "३",
        "²",
        "Ⅳ",
        "𝟛",
        "1_000",
        "_1",
        "1_",
        "٣s",
        "1٣",
        "1.٣",
        "1e٣",
        "３KiB",
        "1 _0",
        "\u200b1",
        "1\u00a0s",
    ]
]


@pytest.mark.parametrize("text", SCRIPTS)
@pytest.mark.parametrize(
    "path", [p for p, leaf in leaves().items() if isinstance(leaf.default, int | float) and leaf.default is not True]
)
def test_numbers_are_written_in_ascii_digits(faults: Faults, path: str, text: str) -> None:
    variable = path.upper().replace(".", "__")
    (fault,) = faults(**{variable: text})
    assert fault.startswith(f"{path} (")


@pytest.mark.parametrize("text", ["127.0.0.1:٨٠٨٠", "127.0.0.1:8_080", "١.0.0.1:80", "[::１]:80"])
def test_addresses_are_written_in_ascii_digits(text: str) -> None:
    with pytest.raises(Bad):
        values.listen_address(text)


@pytest.mark.parametrize("parse", [parsing.origin, parsing.browser_origin])
@pytest.mark.parametrize("text", ["https://host:８０", "https://\u212aey.example", "http://１.2.3.4"])
def test_origins_are_written_in_ascii(parse: object, text: str) -> None:
    with pytest.raises(Bad):
        parse(text)  # type: ignore[operator]


@pytest.mark.parametrize("text", ["\u212aey.example", "*.\u212aey.example", "host:８０", "१.2.3.4"])
def test_hosts_are_written_in_ascii(text: str) -> None:
    with pytest.raises(Bad):
        parsing.allowed_host(text)


@pytest.mark.parametrize("text", ["10.0.0.0/٨", "10.0.0.٠", "10.0.0.0/1_0"])
def test_networks_are_written_in_ascii_digits(text: str) -> None:
    with pytest.raises(Bad):
        parsing.network(text)


def test_methods_are_written_in_ascii() -> None:
    with pytest.raises(Bad, match="not an HTTP method"):
        rule({"deny": "/a", "methods": ["PO\u017fT"]})


@pytest.mark.parametrize("text", ["٣", "1_0"])
def test_counts_are_written_in_ascii_digits(text: str) -> None:
    with pytest.raises(Bad):
        parsing.count(text)


@pytest.mark.parametrize(
    "words",
    [
        ["wait", "--timeout", "٣"],
        ["simulate", "--listen", "127.0.0.1:٠"],
        ["simulate", "--token-ttl", "1_000"],
        ["simulate", "--refresh-window", "٣"],
        ["demo", "--listen", "127.0.0.1:٨٠٨٠"],
    ],
)
async def test_the_flags_of_commands_take_ascii_digits_too(words: list[str]) -> None:
    done = await run(*words)
    assert done.process.returncode == 2
    assert done.text.count("\n") == 1


# YAML that unfolds


def _bomb(levels: int, last: str) -> str:
    lines = ['a0: &a0 ["x", "x"]']
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, levels)]
    return "\n".join([*lines, last.replace("*", f"*a{levels - 1}")]) + "\n"


@pytest.mark.parametrize(
    "last",
    ["rules: *", "listen: *", "app_id: *", "callers: {allowed_hosts: *}", "rules: [{deny: *}]", "log: {level: *}"],
)
async def test_check_of_a_file_that_unfolds_without_end_ends_at_once_with_a_sentence(write: Write, last: str) -> None:
    path = write("app_id: x\n" * ("app_id" not in last) + _bomb(12, last), "bomb.yaml")
    began = time.monotonic()
    done = await run("check", "--config", str(path))
    assert time.monotonic() - began < 15
    assert done.process.returncode == 2
    assert re.search(r"unfold to more than", done.text)


async def test_health_with_such_a_file_ends_at_once(write: Write) -> None:
    path = write(_bomb(12, "admin: {listen: *}"), "bomb.yaml")
    began = time.monotonic()
    done = await run("health", "--config", str(path))
    assert time.monotonic() - began < 15
    assert done.process.returncode == 2


def test_a_long_text_that_is_named_again_and_again_counts_with_its_length(faults: Faults) -> None:
    text = "app_id: x\nlog: {level: &a " + "y" * 100_000 + "}\nrules: [" + "*a, " * 1000 + "]"
    assert any("unfold to more than" in fault for fault in faults(text))


def test_a_list_that_holds_itself_is_an_error(faults: Faults) -> None:
    assert len(faults("app_id: x\nrules: &a [*a]")) == 1


def test_an_anchor_that_is_used_twice_is_fine(load: Load, tmp_path: Path) -> None:
    settings = load("callers: {allowed_hosts: &hosts [a.example], allowed_origins: []}\nlogin: {}\nlimits: {}\n")
    assert settings.callers.allowed_hosts == ("a.example",)
    text = "upstream: {connect_timeout: &t 7s, response_timeout: *t}"
    assert load(text).upstream.response_timeout == 7
