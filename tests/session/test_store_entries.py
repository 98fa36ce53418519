"""The content of the file of `file://`: what is sound is read, and nothing else."""

from __future__ import annotations

import json
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.identity import has_lost_login, marks_of_login
from proxy.core.token import Moment, Source, Token
from proxy.session.stores.entries import LARGEST, Entry, StoredPause, aged, is_alive, parse, render

NOW = 1_800_000_000.0


def file(**changes: Any) -> bytes:
    """A sound file of one entry, but for `changes`: to the token, else to the entry, else to the whole."""
    token = {"value": "a.b.c", "born": NOW, "lifetime": 600, "identity": None, "own_login": False, "marks": {}}
    entry: dict[str, Any] = {"written": NOW, "token": token, "latches": {}, "fingerprint": "", "others": {}}
    whole: dict[str, Any] = {"version": 1, "entries": {"key": entry}}
    for name, value in changes.items():
        next(part for part in (token, entry, whole) if name in part)[name] = value
    return json.dumps(whole).encode()


def token(value: str = "a.b.c", **more: Any) -> Token:
    return Token(value, Moment(5.0, NOW), 600.0, **more)


def test_a_sound_file_is_read() -> None:
    entries, is_sound = parse(file())
    assert is_sound
    assert (found := entries["key"].token) is not None
    assert (found.value, found.born.wall, found.lifetime, found.source) == ("a.b.c", NOW, 600, Source.STORE)
    assert (found.identity, found.own_login, found.marks, found.login_lost) == (None, False, {}, False)


def test_what_was_written_is_read_again() -> None:
    written = {
        "one": Entry(token(identity="é@example.com", own_login=True, marks={"a": [1, None]}), written=NOW),
        "two": Entry(None, {"f": {"login": "Näh."}, "g": {"app_id": "Ach.", "login": "Oh."}}, NOW),
    }
    raw = render(written, NOW)
    read, is_sound = parse(raw)
    assert (is_sound, read["two"], render(read, NOW)) == (True, written["two"], raw)
    assert (one := read["one"].token) is not None
    assert (one.value, one.born.wall, one.lifetime, one.identity) == ("a.b.c", NOW, 600, "é@example.com")
    assert (one.own_login, one.marks) == (True, {"a": [1, None]})


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b" ",
        b"\0",
        b"\0" * 4096,
        b"nonsense",
        b"\xff\xfe{\x00}\x00",
        b"\xef\xbb\xbf{}",
        file()[:-1],
        file()[:40],
        file() + b"}",
        b"null",
        b"[]",
        b'"text"',
        b"1e999",
        b"{}",
        b"[" * 200_000,
        b'{"a":' * 100_000,
        b"9" * 10_000,
        b" " * LARGEST + file(),
        file(version=2),
        file(version=None),
        file(entries=[]),
        file(entries=None),
    ],
    ids=lambda raw: repr(raw[:20]),
)
def test_a_corrupt_file_has_no_entries(raw: bytes) -> None:
    assert parse(raw) == ({}, False)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("value", 1),
        ("value", ""),
        ("value", "not a token"),
        ("value", "a.b.c\r\nx-evil: 1"),
        ("value", "a.b.c\n"),
        ("value", " a.b.c"),
        ("value", "Bearer a.b.c"),
        ("value", "a.b.é"),
        ("value", "a.b." + "c" * 10_000),
        ("born", "now"),
        ("born", True),
        ("born", float("nan")),
        ("born", float("inf")),
        ("born", 10**400),
        ("lifetime", None),
        ("lifetime", -1),
        ("lifetime", 0),
        ("lifetime", 7 * 86400 + 1),
        ("lifetime", float("inf")),
        ("identity", 1),
        ("own_login", 1),
        ("marks", []),
        ("marks", {"x": "ab"}),
        ("marks", {"x": [1]}),
        ("token", "a.b.c"),
        ("token", {}),
        ("token", {"value": "a.b.c"}),
        ("written", "now"),
        ("written", float("nan")),
        ("fingerprint", None),
        ("others", []),
        ("others", {"f": []}),
        ("latches", []),
        ("latches", {"else": "x"}),
        ("latches", {"login": 1}),
        ("latches", {"login": "two\nlines"}),
    ],
)
def test_an_entry_with_anything_unsound_is_not_there(name: str, value: object) -> None:
    assert parse(file(**{name: value})) == ({}, False)


@pytest.mark.parametrize("lifetime", [1, 7 * 86400])
def test_the_shortest_and_the_longest_life_are_read(lifetime: int) -> None:
    assert parse(file(lifetime=lifetime))[1]


def test_a_file_of_the_first_version_is_read() -> None:
    content = json.loads(file(latches={"login": "x"}, fingerprint="f"))
    del content["entries"]["key"]["others"]
    entries, is_sound = parse(json.dumps(content).encode())
    assert (is_sound, entries["key"].refused, entries["key"].pause) == (True, {"f": {"login": "x"}}, StoredPause())


def test_an_unsound_entry_leaves_the_others_alone() -> None:
    sound = json.loads(file())["entries"]["key"]
    entries, is_sound = parse(file(entries={"good": sound, "bad": 1}))
    assert (list(entries), is_sound) == (["good"], False)


@given(st.binary())
def test_no_bytes_make_the_reading_fail(raw: bytes) -> None:
    parse(raw)


_JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@given(st.sampled_from(["value", "born", "lifetime", "identity", "own_login", "marks", "token", "entries"]), _JSON)
def test_no_json_makes_the_use_of_it_fail(name: str, value: object) -> None:
    entries, _ = parse(file(**{name: value}))
    for entry in entries.values():
        if entry.token is not None and (found := aged(entry.token, Moment(5.0, NOW), app_id="app")) is not None:
            assert found.bearer.isascii()
    parse(render(entries, NOW))


@pytest.mark.parametrize(("age", "alive"), [(-61, False), (-60, True), (0, True), (599.9, True), (600, False)])
def test_a_token_lives_by_the_wall_clock(age: float, alive: bool) -> None:
    assert is_alive(token(), NOW + age) is alive
    assert (aged(token(), Moment(5.0, NOW + age), app_id="") is not None) is alive


def test_a_token_of_the_near_future_lives_no_longer_than_a_new_one() -> None:
    found = aged(token(), Moment(5.0, NOW - 30), app_id="")
    assert found is not None
    assert found.born.steady == 5.0


def test_what_is_over_is_not_written() -> None:
    assert parse(render({"key": Entry(token())}, NOW + 600)) == ({}, True)


def test_a_refusal_is_written_although_its_token_is_over() -> None:
    entries, _ = parse(render({"key": Entry(token(), {"f": {"login": "x"}})}, NOW + 600))
    assert entries["key"].refused == {"f": {"login": "x"}}


def test_only_the_last_bindings_are_kept() -> None:
    entries = {str(number): Entry(None, {"f": {"login": "x"}}, written=NOW + number) for number in range(20)}
    assert set(parse(render(entries, NOW))[0]) == {str(number) for number in range(12, 20)}


def test_the_largest_that_is_written_can_be_read() -> None:
    largest = token("a.b." + "c" * 8000, identity="x" * 300, own_login=True, marks={"x": [None, "é" * 8000]})
    raw = render(
        {str(number): Entry(largest, {f"{i}": {"login": "x" * 500} for i in range(4)}) for number in range(8)}, NOW
    )
    assert parse(raw)[1]


def test_the_marks_of_a_login_still_work_when_they_come_back() -> None:
    before, after = (jwt.encode(claims, "k" * 32) for claims in ({"role": "guest"}, {"role": "user", "id": 7}))
    (entry,) = parse(render({"key": Entry(token(after, marks=marks_of_login(before, after)))}, NOW))[0].values()
    assert entry.token is not None
    assert has_lost_login(entry.token.marks, before)
    assert not has_lost_login(entry.token.marks, after)


def test_neither_token_nor_secret_shows_in_a_repr() -> None:
    assert "a.b.c" not in repr(Entry(token(), {"fingerprint": {}}))


def test_a_pause_is_written_although_there_is_no_token() -> None:
    entries, is_sound = parse(render({"key": Entry(pause=StoredPause(3, NOW - 2, 5))}, NOW))
    assert is_sound
    pause = entries["key"].pause
    assert (pause.failures_at(NOW), pause.left(NOW)) == (3, 3)


@pytest.mark.parametrize(
    "pause",
    [None, [], [1, 2], [1, NOW, -1], [1, NOW, 1e9], [0, NOW, 1], [-1, NOW, 1], ["1", NOW, 1], [True, NOW, 1]],
)
def test_a_pause_that_is_unsound_is_none(pause: object) -> None:
    assert StoredPause.read(pause) == StoredPause()


def test_a_pause_is_none_where_the_clock_was_set_to_before_it() -> None:
    assert StoredPause(1, NOW, 5).left(NOW - 3600) == 0
