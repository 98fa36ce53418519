"""What proxy/core/README.md says of CardCash is what the code and the simulator go by."""

from __future__ import annotations

import re
from dataclasses import fields
from fnmatch import fnmatch

import pytest

from proxy.core.rejections import REJECTION_VARIANTS, Rejection, judge_rejection
from proxy.core.repeatability import may_repeat
from proxy.core.route_names import KNOWN_ROUTES
from proxy.simulator import SimulatorSettings
from tests.house.pages import PAGES, project_files, table, text_of, ticked

PAGE = text_of("proxy/core/README.md")
SETTINGS = {item.name for item in fields(SimulatorSettings)}


def _wordings() -> list[str]:
    return ticked(PAGE.partition("**A rejected token**")[2].partition("\n\n")[0])


def _business_errors() -> list[str]:
    return ticked(PAGE.partition("some look alike:")[2].partition(". An answer")[0])


def test_the_wordings_of_a_rejection_are_those_the_code_knows() -> None:
    assert {word.lower() for word in _wordings()} == REJECTION_VARIANTS | {"no authorization token was found"}


@pytest.mark.parametrize("wording", _wordings())
def test_a_wording_that_is_listed_is_read_as_a_rejection(wording: str) -> None:
    assert judge_rejection(400, f'{{"message":["{wording}"]}}'.encode()) is not Rejection.NONE


@pytest.mark.parametrize("wording", _business_errors())
def test_a_business_error_that_is_listed_is_no_rejection(wording: str) -> None:
    assert len(_business_errors()) == 6
    assert judge_rejection(400, f'{{"message":["{wording}"]}}'.encode()) is Rejection.NONE


def _endpoints() -> set[tuple[str, str]]:
    found: set[tuple[str, str]] = set()
    for row in table("method and path"):
        methods: list[str] = []
        path = ""
        for part in re.findall(r"[A-Z]{3,}|[/…][\w.:/-]*", " ".join(ticked(row[0]))):
            if part.isupper():
                methods = [*methods, part] if not path else [part]
                path = ""
            else:
                before = path.rpartition("/")[0]
                path = part if part.startswith("/v") else before + part.replace("…", "/drawdown-account")
                found |= {(method, path) for method in methods}
    return found


def _shape(path: str) -> str:
    """Names of ids differ between the tables, and mean nothing."""
    return re.sub(r":\w+", ":", path)


def test_every_endpoint_that_is_listed_has_a_route_and_the_other_way_round() -> None:
    assert {_shape(path) for _, path in _endpoints()} == {
        _shape(route) for route in KNOWN_ROUTES if not route.endswith("payment-options/:id")
    }


@pytest.mark.parametrize(("method", "path"), sorted(_endpoints()))
def test_only_what_is_documented_as_harmless_is_sent_twice(method: str, path: str) -> None:
    harmless = method == "GET" or (method, path) in {("POST", "/v3/session"), ("POST", "/v3/carts")}
    assert may_repeat(method, re.sub("^/v[0-9.]+", "", path)) == harmless


def test_every_open_question_can_be_played_by_the_simulator() -> None:
    played = {name for row in table("no.") for name in ticked(row[2])}
    assert len(played) > 12
    assert {name for name in played if not any(fnmatch(known, name) for known in SETTINGS)} == set()


#: Documents that were never part of the repository, in two parts so that this file does not cite them.
ELSEWHERE = re.compile(
    "|".join(("API" + r"\.md", "CON" + "TRACT", "AIOHTTP" + r"\.md", "DESIGN" + r"\.md", "REDIS" + r"\.md"))
)


@pytest.mark.parametrize("name", [name for name in project_files() if not name.startswith("requirements/")])
def test_what_a_file_cites_is_in_the_repository(name: str) -> None:
    text = text_of(name)
    assert ELSEWHERE.findall(text) == []
    pages = re.findall(r"(?<![\w/])((?:\w+/)*README\.md)", text)
    assert [page for page in pages if page not in PAGES and f"proxy/{page}" not in PAGES] == []
    sections = re.findall(r'core/README\.md(?:\)|`)?, "([^"]+)"(?: and "([^"]+)")?', text)
    assert [one for pair in sections for one in pair if one and f"\n## {one}\n" not in PAGE] == []
