"""Rules in all their spellings, and the required header."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from proxy.core.rules import Rule
from proxy.core.values import Bad
from proxy.settings.parsing import required_header
from proxy.settings.rules import rule, rules

if TYPE_CHECKING:
    from tests.settings.conftest import Faults, Load, Write

WALLETS = Rule.of(allow=False, methods=("GET", "POST"), path="/v3/wallets/**")


@pytest.mark.parametrize(
    "spelling",
    [
        {"action": "deny", "methods": ["GET", "POST"], "path": "/v3/wallets/**"},
        {"deny": "/v3/wallets/**", "methods": ["get", "post"]},
        {"deny": "/v3/wallets/**", "methods": "GET, POST"},
        {"deny": {"methods": ["GET", "POST"], "path": "/v3/wallets/**"}},
        {"deny": True, "methods": "GET,POST,GET", "path": "/v3/wallets/**"},
        {"deny": None, "methods": ["GET", "POST"], "path": "/v3/wallets/**"},
    ],
)
def test_spellings_of_one_rule(spelling: object) -> None:
    assert rule(spelling) == WALLETS


@pytest.mark.parametrize(
    "spelling",
    [
        *[{"allow": True}, {"action": "allow"}, {"allow": {}}, {"allow": "/**"}, {"allow": "/**", "methods": "*"}],
        {"allow": "*"},
    ],
)
def test_without_methods_and_path_a_rule_matches_all(spelling: object) -> None:
    assert rule(spelling) == Rule.of(allow=True, methods=(), path="/**")


@pytest.mark.parametrize(
    ("spelling", "problem"),
    [
        ({"allow": "/a", "deny": "/b"}, "exactly one of allow and deny"),
        ({"methods": ["GET"]}, "exactly one of allow and deny"),
        ({"action": "refuse"}, "neither allow nor deny"),
        ({"deny": False}, "says nothing"),
        ({"deny": "/a", "path": "/b"}, "two paths"),
        ({"deny": {"path": "/a"}, "methods": "GET"}, "not both"),
        ({"deny": "/a", "methods": []}, "empty list of methods"),
        ({"deny": "/a", "methods": ["PSOT"]}, 'not an HTTP method; did you mean "POST"'),
        ({"deny": "/a", "method": ["GET"]}, 'did you mean "methods"'),
        ({"deny": {"pathe": "/a"}}, 'did you mean "path"'),
        ({"deny": "/a\nb"}, r'the path "/a\\nb" has control characters'),
        ("forbid /a", "is not a rule; write {deny: "),
        ("deny GET /a", "is not a rule; write {deny: "),
        (7, "is not a rule"),
    ],
)
def test_rules_refused(spelling: object, problem: str) -> None:
    with pytest.raises(Bad, match=problem):
        rule(spelling)


@pytest.mark.parametrize("spelling", [{"deny": "orders/**"}, {"deny": "/orders/**"}])
def test_a_glob_gets_its_missing_slash(spelling: object) -> None:
    assert rule(spelling).path == "/orders/**"


def test_a_glob_may_begin_with_a_star() -> None:
    assert rule({"deny": "**/secure-data", "methods": "GET"}) == Rule.of(
        allow=False, methods=("GET",), path="**/secure-data"
    )


def test_rules_keep_their_order(load: Load) -> None:
    loaded = load(
        "app_id: x\nrules:\n  - {allow: /v3/carts}\n  - {deny: /v3/**, methods: GET}\n  - deny: true\n    methods: PUT\n"
    )
    assert loaded.rules == (
        Rule.of(allow=True, methods=(), path="/v3/carts"),
        Rule.of(allow=False, methods=("GET",), path="/v3/**"),
        Rule.of(allow=False, methods=("PUT",), path="/**"),
    )


@pytest.mark.parametrize(
    "text",
    [
        *('[{"deny": "/v3/wallets/**", "deny": "/orders"}]', '{"deny": "/a", "methods": ["GET"], "methods": ["PUT"]}'),
        '[{"deny": {"path": "/a", "path": "/b"}}]',
    ],
)
def test_a_key_twice_in_a_rule_of_the_environment_is_an_error(faults: Faults, text: str) -> None:
    (fault,) = faults(RULES=text)
    assert fault.startswith("rules (environment variable CARDCASH_RULES): has a key twice")
    assert "/" not in fault.partition(": ")[2], "what a rule says is not repeated"


def test_rules_from_the_environment_are_json(load: Load) -> None:
    assert load(RULES=json.dumps([{"deny": "/v3/wallets/**", "methods": ["GET", "POST"]}])).rules == (WALLETS,)


def test_a_rule_that_is_no_json_in_the_environment_is_told_how_to_write_it(faults: Faults) -> None:
    (fault,) = faults(RULES="deny /v3/wallets/**")
    assert "is not a rule; write {deny: " in fault


def test_rules_of_the_file_stay_with_an_empty_variable(load: Load) -> None:
    assert load("rules: [{deny: /a}]", RULES="").rules == (Rule.of(allow=False, methods=(), path="/a"),)


def test_a_single_rule_needs_no_list() -> None:
    assert rules({"deny": "/a"}) == rules('{"deny": "/a"}') == (Rule.of(allow=False, methods=(), path="/a"),)


def test_every_wrong_rule_is_named_by_its_index(faults: Faults) -> None:
    found = faults("app_id: x\nrules:\n- deny: /a\n- {allow: /a, deny: /b}\n- forbid /x\n")
    assert [fault.partition(":")[0].partition(" ")[0] for fault in found] == ["rules[1]", "rules[2]"]


def test_header_with_a_value() -> None:
    header = required_header("X-Proxy-Key:  s3cret: with blanks ")
    assert (header.name, header.value.reveal(), header.file) == ("X-Proxy-Key", "s3cret: with blanks", None)
    assert "s3cret" not in repr(header)


@pytest.mark.parametrize("prefix", ["", "file:", "file://"])
def test_header_with_a_file(write: Write, prefix: str) -> None:
    path = write("s3cret\n")
    header = required_header(f"X-Proxy-Key: {prefix}{path}")
    assert (header.value.reveal(), header.file) == ("s3cret", path)


@pytest.mark.parametrize(
    "text", ["hunter2", "hunter2:", "hun ter2: x", ": hunter2", "X: hunter2\x00", "X: /hunter2", "X: file:hunter2"]
)
def test_refused_headers_are_not_repeated(text: str) -> None:
    with pytest.raises(Bad) as caught:
        required_header(text)
    assert "hunter2" not in str(caught.value)


def test_a_header_file_must_fit_into_a_header(write: Write) -> None:
    with pytest.raises(Bad, match="visible ASCII"):
        required_header(f"X-Key: {write('schlüssel')}")
