"""The URL of a Redis: what it says, and that a bad one names the part and repeats nothing."""

from __future__ import annotations

import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.secret import Secret
from proxy.core.store_url import StoreUrl, is_redis, parse_store_url, spelled
from proxy.core.values import Bad

GOOD = {
    "redis://localhost": StoreUrl((("localhost", 6379),)),
    "REDIS://LocalHost:7000/": StoreUrl((("localhost", 7000),)),
    "redis://r.example:1/3": StoreUrl((("r.example", 1),), db=3),
    "redis://my_redis": StoreUrl((("my_redis", 6379),)),
    "redis://10.0.0.7:6380": StoreUrl((("10.0.0.7", 6380),)),
    "redis://[::1]": StoreUrl((("::1", 6379),)),
    "redis://[2001:DB8:0::1]:6380": StoreUrl((("2001:db8::1", 6380),)),
    "redis://a,b:1,[::1]:2": StoreUrl((("a", 6379), ("b", 1), ("::1", 2))),
    "redis://" + ",".join("a" * 32): StoreUrl((("a", 6379),) * 32),
    "redis://a/1000000": StoreUrl((("a", 6379),), db=1_000_000),
    "rediss://a": StoreUrl((("a", 6379),), tls=True),
    "redis://a?prefix=team:": StoreUrl((("a", 6379),), prefix="team:"),
    "redis://a/0?prefix=team": StoreUrl((("a", 6379),), prefix="team"),
    "redis://me@a": StoreUrl((("a", 6379),), user=Secret("me")),
    "redis://:pw@a": StoreUrl((("a", 6379),), password=Secret("pw")),
    "redis://me:pw@a": StoreUrl((("a", 6379),), user=Secret("me"), password=Secret("pw")),
    "redis://me:p:w@a": StoreUrl((("a", 6379),), user=Secret("me"), password=Secret("p:w")),
    "redis://me:p@w@a": StoreUrl((("a", 6379),), user=Secret("me"), password=Secret("p@w")),
    "redis://m%65:p%2fw%3F%23%c3%A9@a": StoreUrl((("a", 6379),), user=Secret("me"), password=Secret("p/w?#é")),
    "redis+sentinel://a,b:2/main": StoreUrl((("a", 26379), ("b", 2)), master="main"),
    "rediss+sentinel://:pw@a/main/4": StoreUrl((("a", 26379),), True, "main", password=Secret("pw"), db=4),
}
BAD = {
    "": "scheme",
    "redis": "scheme",
    "http://hush": "scheme",
    "redis+cluster://hush": "scheme",
    "redis://": "no host",
    "redis:///0": "no host",
    "redis://,hush": "host 1",
    "redis://a,": "host 2",
    "redis://a,-hush-": "host 2",
    "redis://127.1": "its host",
    "redis://1.2.3.256": "its host",
    "redis://[fe80::1%25eth0]": "its host",
    "redis://fe80::1": "its host",
    "redis://[::1": "its host",
    "redis://a:": "port",
    "redis://a:0": "port",
    "redis://a:65536": "port",
    "redis://a:hush": "port",
    "redis://a:٣": "ASCII",
    "redis://a b": "blanks",
    "redis://hush:ö@a": "ASCII",
    "redis://" + ",".join("a" * 33): "more than 32",
    "redis://hush:hu#sh@a": "%23",
    "redis://hush:hu/sh@a": "%2F",
    "redis://hush:hu://sh@a": "%2F",
    "redis://hush:hu?sh@a": "%3F",
    "redis://hush:hu%sh@a": "password",
    "redis://hu%sh:hush@a": "user",
    "redis://hush:%FF@a": "password",
    "redis://hush:@a": "empty password",
    "redis://@a": "neither user nor password",
    "redis://:@a": "neither user nor password",
    "redis://a/hush": "database",
    "redis://a/-1": "database",
    "redis://a/99999999": "database",
    "redis://a/0/hush": "path",
    "redis://a?hush=1": "query",
    "redis://a?prefix=": "prefix",
    "redis://a?prefix={hush}": "prefix",
    "redis://a?prefix=*": "prefix",
    "redis://a?prefix=a&hush=1": "prefix",
    "redis+sentinel://a": "master",
    "redis+sentinel://a/": "master",
    "redis+sentinel://a/hu!sh": "master",
    "redis+sentinel://a/main/hush": "database",
    "redis+sentinel://a/main/0/hush": "path",
}


@pytest.mark.parametrize(("text", "means"), GOOD.items())
def test_what_a_url_says(text: str, means: StoreUrl) -> None:
    assert parse_store_url(text) == means


@pytest.mark.parametrize(("text", "part"), BAD.items())
def test_a_bad_url_names_the_part_and_repeats_nothing(text: str, part: str) -> None:
    with pytest.raises(Bad, match=part) as caught:
        parse_store_url(text)
    assert "hush" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("text", GOOD)
def test_it_is_written_without_user_and_password_as_it_can_be_read_again(text: str) -> None:
    url = parse_store_url(text)
    again = parse_store_url(str(url))
    assert (again.user, again.password) == (None, None)
    assert (again.hosts, again.tls, again.master, again.db, again.prefix) == (
        *(url.hosts, url.tls, url.master, url.db, url.prefix),
    )


def test_what_is_the_default_is_not_written() -> None:
    assert str(parse_store_url("redis://a/0?prefix=cardcash:")) == "redis://a:6379"


def test_user_and_password_show_nowhere() -> None:
    url = parse_store_url("rediss://hush:hush@a:1,b/2?prefix=p")
    assert "hush" not in f"{url} {url!r} {[url]}"
    assert str(url) == "rediss://a:1,b:6379/2?prefix=p"


@given(st.text(st.characters(codec="utf-8"), max_size=30))
def test_any_text_is_understood_or_refused(text: str) -> None:
    for scheme in ("redis://", "rediss+sentinel://"):
        try:
            url = parse_store_url(scheme + text)
        except Bad:
            continue
        assert parse_store_url(str(url)).hosts == url.hosts


@pytest.mark.parametrize(
    ("text", "local"), [("redis://a", False), ("redis://localhost,127.0.0.1,[::1]", True), ("redis://[::1],a", False)]
)
def test_whether_it_leaves_this_machine(text: str, local: bool) -> None:
    assert parse_store_url(text).is_local is local


@pytest.mark.parametrize(
    ("text", "yes"),
    [("redis://", True), ("redis://a:b://c", True), ("rediss+sentinel://x", True), ("file:///x", False)],
)
def test_whether_a_store_is_a_redis(text: str, yes: bool) -> None:
    assert is_redis(text) is yes


def test_where_a_redis_is_is_told_by_host_and_port_alone() -> None:
    url = parse_store_url("rediss+sentinel://user:hush@r.example,[::1]:2/master/3?prefix=x:")
    assert spelled(url.hosts) == "r.example:26379,[::1]:2"
