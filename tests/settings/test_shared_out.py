"""Limits hold for all workers together, never for each of them."""

from __future__ import annotations

import asyncio

import pytest

from proxy.settings import SettingsError, load_settings
from tests.settings.scene import around, scene

TWO = {"WORKERS": "2"}


async def test_bodies_that_are_kept_take_no_more_than_the_total_at_all_workers_together() -> None:
    settings = {**TWO, "LIMITS__REPLAY_BODY": "100", "LIMITS__REPLAY_TOTAL": "200"}
    async with around() as here, scene(here, settings, as_process=True) as s:
        await s.ready()
        # Each worker has room for one of them; if each had the whole total, it would be two.
        async with s.holding(16, "POST /carts", body=b"x" * 80):
            assert 0 < await s.sample("replay_buffer_bytes") <= 200


async def test_connections_to_cardcash_are_no_more_than_the_most_at_all_workers_together() -> None:
    settings = {**TWO, "UPSTREAM__MAX_CONNECTIONS": "3"}
    async with around() as here, scene(here, settings, as_process=True) as s:
        await s.ready()
        async with s.holding(16, "GET /carts"):
            assert await s.comes(lambda: here.upstream.open >= 3)
            assert await s.sample("upstream_connections", state="active") <= 3
            assert here.upstream.open <= 3


async def test_requests_in_flight_are_no_more_than_the_limit_at_all_workers_together() -> None:
    async with around() as here, scene(here, {**TWO, "LIMITS__IN_FLIGHT": "4"}, as_process=True) as s:
        await s.ready()
        async with s.holding(4, "GET /carts"):
            more = await asyncio.gather(*(s.ask("GET /carts") for _ in range(6)))
            assert {answer.status for answer in more} == {503}


def test_a_body_that_may_be_kept_fits_into_the_share_of_each_worker() -> None:
    environ = {
        "CARDCASH_APP_ID": "x",
        "CARDCASH_LIMITS__REPLAY_BODY": "100",
        "CARDCASH_LIMITS__REPLAY_TOTAL": "399",
        "CARDCASH_WORKERS": "4",
    }
    with pytest.raises(SettingsError, match=r"limits\.replay_total.* 4 workers"):
        load_settings(environ=environ)
    assert load_settings(environ=environ | {"CARDCASH_LIMITS__REPLAY_TOTAL": "400"}).workers == 4
