"""The pages name all there is, and nothing that is not."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from prometheus_client.parser import text_string_to_metric_families

import proxy
from proxy.commands import COMMANDS
from proxy.core.errors import ProxyError
from proxy.settings.describe import default_of
from proxy.settings.model import CONFIG_VARIABLE, Leaf, groups, leaves
from tests.house.pages import ROOT, calls, documents, literals, prose, table, text_of, ticked, values_of
from tests.server.harness import Running


def _default(leaf: Leaf) -> str:
    default = default_of(leaf) or default_of(replace(leaf, meaning=""))
    return f"`{default}`".replace(proxy.__version__, "<version>") if default else "–"


def test_every_setting_stands_in_the_table_with_its_variable_and_default() -> None:
    documented = [row[:3] for row in table("key")]
    assert documented == [[f"`{leaf.path}`", f"`{leaf.variable}`", _default(leaf)] for leaf in leaves().values()]


def test_the_ten_settings_of_the_users_page_have_their_defaults() -> None:
    by_variable = {f"`{leaf.variable}`": _default(leaf) for leaf in leaves().values()}
    told = {row[0]: row[1] for row in table("setting")}
    assert len(told) == 10
    assert told == {variable: by_variable[variable] for variable in told}


def test_the_users_page_is_short() -> None:
    lines = documents()["README.md"].splitlines()
    assert len(documents()["README.md"].encode()) <= 8 * 1024
    assert [line for line in lines if len(line) > 120] == []


def test_every_setting_has_a_meaning() -> None:
    assert [row[0] for row in table("key") if len(row) != 4 or len(row[3]) < 10] == []


def test_every_setting_that_is_spoken_of_exists() -> None:
    tops = "|".join(sorted(groups()))
    spoken_of = {match[0] for match in re.finditer(rf"(?<![\w./-])(?:{tops})\.[a-z]\w+(?!\()", prose())}
    assert len(spoken_of) > 20
    assert {name for name in spoken_of if name not in leaves() and not name.endswith((".py", ".yaml"))} == set()


def test_every_environment_variable_that_is_spoken_of_exists() -> None:
    spoken_of = set(re.findall(r"\bCARDCASH_[A-Z_]+", prose()))
    assert spoken_of - {leaf.variable for leaf in leaves().values()} == {CONFIG_VARIABLE}


@pytest.mark.parametrize("path", leaves())
def test_every_setting_stands_in_the_annotated_file(path: str) -> None:
    *parents, name = path.split(".")
    lines = (ROOT / "config/proxy.yaml").read_text(encoding="utf-8").splitlines()
    if parents:
        lines = lines[lines.index(f"# {parents[0]}:") :]
    assert any(re.search(rf"(?<![\w.]){name}:", line) for line in lines)


async def _metrics(proxy: Running) -> set[tuple[str, ...]]:
    """Name, type and labels of all metrics but the process's own, as a proxy shows them that has served a request."""
    await proxy.ask("GET /carts")
    text = (await proxy.admin.ask("GET /metrics")).text
    found: set[tuple[str, ...]] = set()
    for family in text_string_to_metric_families(text):
        if family.name.startswith("cardcash_proxy_"):
            (labels,) = {tuple(name for name in sample.labels if name != "le") for sample in family.samples}
            found.add((family.name + ("_total" if family.type == "counter" else ""), family.type, *labels))
    return found


async def test_every_metric_stands_in_the_table_with_its_type_and_labels(proxy: Running) -> None:
    documented = {(ticked(name)[0], kind, *ticked(labels)) for name, kind, labels, _ in table("metric")}
    assert {(name, kind, *sorted(labels)) for name, kind, *labels in documented} == {
        (name, kind, *sorted(labels)) for name, kind, *labels in await _metrics(proxy)
    }


async def test_every_metric_that_is_spoken_of_exists(proxy: Running) -> None:
    assert set(re.findall(r"\bcardcash_proxy_\w+", prose())) <= {name for name, *_ in await _metrics(proxy)}


def _codes() -> set[tuple[int, str]]:
    codes = {(ProxyError.status, ProxyError.code)}
    kinds = [ProxyError]
    while kinds:
        kind = kinds.pop()
        kinds += kind.__subclasses__()
        if "code" in vars(kind):
            codes.add((kind.status, kind.code))
    # Denied gets its code from who raises it.
    codes |= {(403, literals(call)[0]) for name, call in calls() if name == "Denied" and literals(call)}
    return codes


def test_every_error_code_stands_in_the_table_with_its_status() -> None:
    assert {(int(status), ticked(code)[0]) for status, code, _ in table("status")} == _codes()


def test_no_error_code_stands_there_twice() -> None:
    rows = [row[1] for row in table("status")]
    assert len(rows) == len(set(rows))


def test_codes_in_what_happens_have_their_status() -> None:
    told = {
        (int(status), code) for row in table("when") for status, code in re.findall(r"\b(\d{3}) `([a-z_]+)`", row[1])
    }
    assert len(told) > 8
    assert told <= _codes()


def test_every_command_stands_in_the_table() -> None:
    assert {ticked(row[0])[0].split()[0] for row in table("command")} == set(COMMANDS)


def test_every_admin_endpoint_stands_in_the_table() -> None:
    there_are = {
        f"{name.removeprefix('add_').upper()} {literals(call)[0]}"
        for name, call in calls()
        if name in {"add_get", "add_post"} and len(literals(call)) == 1 and not literals(call)[0].startswith("/_sim")
    }
    assert {ticked(row[0])[0] for row in table("on the admin port")} == there_are


def test_every_log_event_stands_in_the_table() -> None:
    levels = {"debug", "info", "warning", "error", "log", "write", "_line"}
    there_are = {
        literals(call)[0]
        for name, call in calls()
        if name in levels and literals(call) and re.fullmatch(r"[a-z][a-z_]+", literals(call)[0])
    }
    there_are |= set(values_of("event"))
    assert {event for row in table("event") for event in ticked(row[0])} == there_are


def test_every_file_that_is_spoken_of_exists() -> None:
    spoken_of = set(re.findall(r"(?<![\w/.-])((?:proxy|tests|config)/[\w/.-]*\w)", prose()))
    assert len(spoken_of) > 10
    assert {name for name in spoken_of if not (ROOT / name).exists()} == set()


@pytest.mark.parametrize("page", [*documents(), "CHANGELOG.md"])
def test_every_link_leads_somewhere(page: str) -> None:
    for link, _, heading in re.findall(r"\]\((?!https?:)([^)#]*)(#([^)]+))?\)", text_of(page)):
        file = (ROOT / page).parent.joinpath(link) if link else ROOT / page
        assert file.exists(), link
        assert not heading or heading in _anchors(file.read_text(encoding="utf-8")), heading


def _anchors(text: str) -> set[str]:
    """List the anchors that GitHub gives the headings of a page."""
    heads = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}
