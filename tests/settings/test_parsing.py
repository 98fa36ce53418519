"""Texts become numbers, durations and sizes, or a clear refusal."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.core import values
from proxy.core.secret import Secret
from proxy.core.store_url import StoreUrl
from proxy.core.values import Bad
from proxy.settings import parsing
from proxy.settings.describe import readable_duration, readable_size
from proxy.settings.files import SecretForm


def test_zero_is_no_positive_duration() -> None:
    with pytest.raises(Bad, match="more than 0"):
        parsing.positive_duration("0s")


@settings(deadline=None)
@given(st.floats(min_value=0, max_value=values.LONGEST))
def test_a_readable_duration_is_exact(seconds: float) -> None:
    assert values.duration(readable_duration(seconds)) == seconds


@settings(deadline=None)
@given(st.integers(min_value=0, max_value=values.LARGEST))
def test_a_readable_size_is_exact(size: int) -> None:
    assert values.size(readable_size(size)) == size


@settings(deadline=None)
@given(st.text())
def test_parsers_refuse_any_text_with_bad_only(text: str) -> None:
    for parse in (values.duration, values.size, parsing.count, parsing.boolean, parsing.url_path, parsing.store):
        try:
            parse(text)
        except Bad as bad:
            assert str(bad)


@pytest.mark.parametrize(("text", "value"), [("true", True), ("No", False), ("on", True), ("0", False), (True, True)])
def test_booleans(text: object, value: bool) -> None:
    assert parsing.boolean(text) is value


@pytest.mark.parametrize("text", ["", "maybe", "2", [], None])
def test_booleans_refused(text: object) -> None:
    with pytest.raises(Bad):
        parsing.boolean(text)


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "many", "", "1e3", "9" * 30, True])
def test_counts_refused(text: object) -> None:
    with pytest.raises(Bad):
        parsing.count(text)


@pytest.mark.parametrize(
    ("text", "path"), [("/v3", "/v3"), ("/v3/", "/v3"), ("/", ""), ("", ""), ("/a/b%20c", "/a/b%20c")]
)
def test_url_paths(text: str, path: str) -> None:
    assert parsing.url_path(text) == path


@pytest.mark.parametrize("text", ["v3", "/v3?x=1", "/v3#x", "/a b", "/ü", "//host/v3", "https://host/v3", "/a\\b"])
def test_url_paths_refused(text: str) -> None:
    with pytest.raises(Bad):
        parsing.url_path(text)


@pytest.mark.parametrize(
    ("text", "stored"),
    [("memory://", "memory://"), ("MEMORY://", "memory://"), ("file:///var/lib/session", "file:///var/lib/session")],
)
def test_stores(text: str, stored: str) -> None:
    assert parsing.store(text) == stored


def test_the_url_of_a_redis_becomes_one() -> None:
    assert parsing.store("rediss://:pw@h/1") == StoreUrl((("h", 6379),), tls=True, password=Secret("pw"), db=1)


def test_a_bad_url_of_a_redis_is_not_repeated() -> None:
    with pytest.raises(Bad, match="has a port") as caught:
        parsing.store("redis://me:hunter2@hunter3:x")
    assert "hunter" not in str(caught.value)


@pytest.mark.parametrize(("text", "good"), [("one", True), ("one\ntwo\n", True), ("\n \n", False), ("a\x00b", False)])
def test_secrets_stand_one_a_line(text: str, good: bool) -> None:
    if good:
        assert parsing.secret(SecretForm.LINES)(text).lines() == tuple(map(Secret, text.split()))
        return
    with pytest.raises(Bad):
        parsing.secret(SecretForm.LINES)(text)


@pytest.mark.parametrize(
    "text", ["", "memory", "memory://x", "file://relative", "file:///", "file:///a?b", "sqlite:///x"]
)
def test_stores_refused(text: str) -> None:
    with pytest.raises(Bad, match=r"use memory://, file:///path or redis://host"):
        parsing.store(text)


@pytest.mark.parametrize("text", ["", "a\nb", "a\x00", "é"])
def test_user_agents_refused(text: str) -> None:
    with pytest.raises(Bad):
        parsing.user_agent(text)


@pytest.mark.parametrize("text", ["a b", "a\r\nX: y", "é", ""])
def test_application_ids_refused(text: str) -> None:
    with pytest.raises(Bad) as caught:
        parsing.secret(SecretForm.VISIBLE)(text)
    assert not text or text not in str(caught.value)
