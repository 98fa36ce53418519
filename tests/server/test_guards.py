"""Who may call: hosts, origins, networks, the required header, rules; and the unix socket's mode."""

from __future__ import annotations

import os
import socket
import stat
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import pytest

from proxy.core.request_fields import read_request
from proxy.listening import CannotListen
from proxy.server.exchange import Exchange
from proxy.server.guard import Guard, GuardSettings
from tests.conftest import StartProxy
from tests.server.harness import APP_ID, RawUpstream, Running, running_proxy


@pytest.mark.parametrize(
    "host", [b"127.0.0.1", b"localhost", b"LocalHost:80", b"localhost.", b"[::1]:8080", b"127.0.0.2"]
)
async def test_loopback_hosts_are_served(upstream: RawUpstream, proxy: Running, host: bytes) -> None:
    assert (await proxy.ask("GET /a", host=host)).status == 200


@pytest.mark.parametrize(
    "host",
    [
        b"evil.example",
        b"127.0.0.1.evil.example",
        b"localhost.evil.example",
        b"app.localhost",
        b"a.b.localhost:8080",
        b"169.254.169.254",
        b"0.0.0.0",
        b"[::]",
    ],
)
async def test_other_hosts_are_421(upstream: RawUpstream, proxy: Running, host: bytes) -> None:
    got = await proxy.ask("GET /a", host=host)
    assert (got.status, got.code) == (421, "host_not_allowed")
    assert upstream.requests == []


@pytest.mark.parametrize("authority", ["evil.example", "app.localhost"])
async def test_an_absolute_target_elsewhere_is_421(upstream: RawUpstream, proxy: Running, authority: str) -> None:
    got = await proxy.ask(f"GET http://{authority}/a")
    assert (got.status, got.code) == (421, "host_not_allowed")
    assert upstream.requests == []


@pytest.mark.parametrize("host", [b"proxy.internal", b"PROXY.internal:9", b"a.b.svc.example"])
async def test_configured_hosts_are_served(upstream: RawUpstream, start_proxy: StartProxy, host: bytes) -> None:
    proxy = await start_proxy(CALLERS__ALLOWED_HOSTS="proxy.internal,*.svc.example")
    assert (await proxy.ask("GET /a", host=host)).status == 200
    assert (await proxy.ask("GET /a", host=b"other.internal")).status == 421


async def test_names_below_localhost_are_served_where_they_are_configured(
    upstream: RawUpstream, start_proxy: StartProxy
) -> None:
    proxy = await start_proxy(CALLERS__ALLOWED_HOSTS="localhost,*.localhost")
    assert (await proxy.ask("GET /a", host=b"app.localhost")).status == 200
    assert (await proxy.admin.ask("POST /session/renew", headers={"Host": "app.localhost"})).status == 200


@pytest.mark.parametrize("host", [b"localhost", b"127.0.0.1", b"[::1]", b"app.localhost"])
async def test_configured_hosts_replace_the_default(
    upstream: RawUpstream, start_proxy: StartProxy, host: bytes
) -> None:
    proxy = await start_proxy(CALLERS__ALLOWED_HOSTS="proxy.internal")
    got = await proxy.ask("GET /a", host=host)
    assert (got.status, got.code) == (421, "host_not_allowed")
    target = (await proxy.ask(f"GET http://{host.decode()}/a", host=b"proxy.internal")).status
    assert target == 421


async def test_the_admin_port_acts_by_its_loopback_name_whatever_hosts_are_configured(
    upstream: RawUpstream, start_proxy: StartProxy
) -> None:
    proxy = await start_proxy(CALLERS__ALLOWED_HOSTS="proxy.internal")
    for host in ("127.0.0.1", "localhost", "proxy.internal"):
        assert (await proxy.admin.ask("POST /session/renew", headers={"Host": host})).status == 200
    for host in ("other.internal", "app.localhost"):
        assert (await proxy.admin.ask("POST /session/renew", headers={"Host": host})).status == 421


async def test_the_admin_port_does_not_act_by_a_name_below_localhost(proxy: Running) -> None:
    for path in ("/session/renew", "/shutdown"):
        assert (await proxy.admin.ask(f"POST {path}", headers={"Host": "app.localhost"})).status == 421


@pytest.mark.parametrize(
    "lines",
    [
        [b"Origin: https://evil.example"],
        [b"Origin: null"],
        [b"Origin: http://localhost:3000"],
        [b"Sec-Fetch-Site: cross-site"],
        [b"Sec-Fetch-Site: same-site"],
        [b"Origin: https://shop.example", b"Origin: https://evil.example"],
    ],
)
async def test_cross_site_requests_of_browsers_are_403(
    upstream: RawUpstream, start_proxy: StartProxy, lines: list[bytes]
) -> None:
    proxy = await start_proxy(CALLERS__ALLOWED_ORIGINS="https://shop.example")
    got = await proxy.ask("POST /orders", *lines, body=b"{}")
    assert (got.status, got.code) == (403, "origin_not_allowed")
    assert upstream.requests == []


@pytest.mark.parametrize(
    "lines",
    [
        [],
        [b"Sec-Fetch-Site: none"],
        [b"Sec-Fetch-Site: same-origin"],
        [b"Origin: https://shop.example", b"Sec-Fetch-Site: cross-site"],
    ],
)
async def test_allowed_and_own_origins_are_served(
    upstream: RawUpstream, start_proxy: StartProxy, lines: list[bytes]
) -> None:
    proxy = await start_proxy(CALLERS__ALLOWED_ORIGINS="https://shop.example")
    assert (await proxy.ask("GET /a", *lines)).status == 200
    assert (await proxy.ask("GET /a", b"Origin: http://" + proxy.host)).status == 200


async def test_a_client_outside_the_networks_is_403(upstream: RawUpstream, start_proxy: StartProxy) -> None:
    proxy = await start_proxy(CALLERS__ALLOWED_NETWORKS="10.0.0.0/8")
    got = await proxy.ask("GET /a")
    assert (got.status, got.code) == (403, "client_not_allowed")


async def test_a_client_inside_the_networks_is_served(upstream: RawUpstream, start_proxy: StartProxy) -> None:
    proxy = await start_proxy(CALLERS__ALLOWED_NETWORKS="10.0.0.0/8,127.0.0.0/8")
    assert (await proxy.ask("GET /a")).status == 200


@pytest.mark.parametrize(
    "lines", [[], [b"X-Key: wrong"], [b"X-Key: k-value", b"X-Key: k-value"], [b"X-Key: K-VALUE"], [b"X-Key: k-val"]]
)
async def test_without_the_required_header_it_is_403(
    upstream: RawUpstream, start_proxy: StartProxy, lines: list[bytes]
) -> None:
    proxy = await start_proxy(CALLERS__REQUIRE_HEADER="X-Key: k-value")
    got = await proxy.ask("GET /a", *lines)
    assert (got.status, got.code) == (403, "header_required")
    assert upstream.requests == []


async def test_the_required_header_lets_pass_and_does_not_go_up(upstream: RawUpstream, start_proxy: StartProxy) -> None:
    proxy = await start_proxy(CALLERS__REQUIRE_HEADER="X-Key: k-value")
    assert (await proxy.ask("GET /a", b"x-key: k-value")).status == 200
    assert b"k-value" not in upstream.requests[0].raw


RULES = (
    '[{"allow": "/wallets", "methods": ["GET"]}, {"deny": "/wallets/**"},'
    ' {"deny": "/v3/orders/**", "methods": ["PUT", "DELETE"]}]'
)


@pytest.mark.parametrize(
    "line",
    [
        "GET /wallets/7/secure-data",
        "GET /v3/wallets/7",
        "GET /v3.1/wallets/7",
        "GET /%77allets/7",
        "GET /x/../wallets/7",
        "GET //wallets//7",
        "GET /WALLETS/7",
        "GET /wallets;a=b/7",
        "GET /%2577allets/7",
        "GET /wallets%2F7",
        "POST /wallets",
        "PUT /orders/7",
        "PUT /v3/orders/7?x=y",
        "POST /v3/orders/7?_method=delete",
        "GET /orders/7?a=1&%5Fmethod=PUT",
    ],
)
async def test_a_denied_path_is_403_however_it_is_spelt(
    upstream: RawUpstream, start_proxy: StartProxy, line: str
) -> None:
    proxy = await start_proxy(RULES=RULES)
    got = await proxy.ask(line)
    assert (got.status, got.code) == (403, "denied_by_rule")
    assert upstream.requests == []


@pytest.mark.parametrize(
    "line", ["GET /wallets", "GET /v3/wallets?archived=true", "GET /orders/7", "POST /orders", "GET /walletsx"]
)
async def test_what_no_rule_denies_is_served(upstream: RawUpstream, start_proxy: StartProxy, line: str) -> None:
    proxy = await start_proxy(RULES=RULES)
    assert (await proxy.ask(line)).status == 200


@pytest.mark.parametrize(
    ("line", "header", "status"),
    [
        ("PUT /orders/7", b"", 403),
        ("GET /orders/7", b"Origin: https://evil.example", 403),
        ("GET /orders/7", b"Sec-Fetch-Site: cross-site", 403),
        ("GET http://evil.example/orders/7", b"", 421),
    ],
)
async def test_a_refused_request_is_counted_under_its_route(
    start_proxy: StartProxy, line: str, header: bytes, status: int
) -> None:
    proxy = await start_proxy(RULES=RULES)
    assert (await proxy.ask(line, *filter(None, [header]))).status == status
    method = line.split(maxsplit=1)[0]
    assert proxy.sample("requests_total", method=method, route="/v3/orders/:orderId", status=str(status)) == 1


async def test_session_and_login_fall_under_the_rules_too(upstream: RawUpstream, start_proxy: StartProxy) -> None:
    proxy = await start_proxy(RULES='[{"deny": "/session"}, {"deny": "/customers/**"}]')
    assert (await proxy.ask("POST /session")).code == "denied_by_rule"
    assert (await proxy.ask("POST /v3/customers/login", body=b"{}")).code == "denied_by_rule"


async def test_a_unix_socket_has_mode_0660_serves_and_is_gone_afterwards(upstream: RawUpstream, tmp_path: Path) -> None:
    path = tmp_path / "proxy.sock"
    async with running_proxy(upstream.url, LISTEN=f"unix:{path}") as proxy:
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        caller = await proxy.caller(path=str(path))
        assert (await caller.ask(b"GET /a HTTP/1.1\r\nHost: localhost\r\n\r\n")).status == 200
    assert not path.exists()


async def test_a_live_unix_socket_of_another_is_left_alone(upstream: RawUpstream, tmp_path: Path) -> None:
    path = tmp_path / "proxy.sock"
    with socket.socket(socket.AF_UNIX) as live:
        live.bind(str(path))
        live.listen()
        with pytest.raises(CannotListen, match="something else listens"):
            async with running_proxy(upstream.url, LISTEN=f"unix:{path}"):
                pass
        assert path.exists()


@pytest.mark.parametrize("make", [Path.touch, Path.mkdir, os.mkfifo])
async def test_a_listen_path_that_is_no_socket_is_told_and_left_alone(
    upstream: RawUpstream, tmp_path: Path, make: Callable[[Path], None]
) -> None:
    path = tmp_path / "proxy.sock"
    make(path)
    with pytest.raises(
        CannotListen, match=r"listen: .* exists and is no socket; move it away or set listen to another"
    ):
        async with running_proxy(upstream.url, LISTEN=f"unix:{path}"):
            pass
    assert path.exists()


@pytest.mark.parametrize(
    ("place", "advice"),
    [
        ("192.0.2.1:0", "no interface of this machine"),
        ("unix:/nowhere/a.sock", "no such folder"),
        ("nobody.invalid:0", "can resolve the name"),
    ],
)
async def test_a_place_where_nobody_can_listen_is_told_with_what_to_do(
    upstream: RawUpstream, place: str, advice: str
) -> None:
    with pytest.raises(CannotListen, match=rf"listen: cannot listen on .*{advice}"):
        async with running_proxy(upstream.url, LISTEN=place, CALLERS__ALLOWED_NETWORKS="127.0.0.0/8"):
            pass


async def test_a_stale_unix_socket_is_replaced(upstream: RawUpstream, tmp_path: Path) -> None:
    path = tmp_path / "proxy.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    async with running_proxy(upstream.url, LISTEN=f"unix:{path}") as proxy:
        caller = await proxy.caller(path=str(path))
        assert (await caller.ask(b"GET /a HTTP/1.1\r\nHost: localhost\r\n\r\n")).status == 200


async def test_several_addresses_are_served(upstream: RawUpstream, tmp_path: Path) -> None:
    path = tmp_path / "proxy.sock"
    async with running_proxy(upstream.url, LISTEN=f"127.0.0.1:0,unix:{path}") as proxy:
        assert (await proxy.ask("GET /a")).status == 200
        caller = await proxy.caller(path=str(path))
        assert (await caller.ask(b"GET /a HTTP/1.1\r\nHost: localhost\r\n\r\n")).status == 200


async def test_no_error_names_the_application_id(upstream: RawUpstream, proxy: Running) -> None:
    for line in ("FOO /", "GET /" + APP_ID, "GET http://evil.example/"):
        got = await proxy.ask(line, b"x-cc-app: " + APP_ID.encode())
        assert APP_ID.encode() not in got.head + got.body


async def test_many_long_targets_do_not_fill_the_memory() -> None:
    guard, fields = Guard(GuardSettings()), read_request([(b"Host", b"localhost")])
    link, loop = Mock(local=None), Mock()

    def ask(numbers: range) -> None:
        for number in numbers:
            target = f"/v3/{number}/{'a' * 4000}?{'b' * 4000}"
            exchange = Exchange(link, loop, "GET", target, fields)
            guard.admit(exchange, fields, guard.read(exchange, fields))

    ask(range(20))  # whatever the first ones make once
    tracemalloc.start()
    try:
        ask(range(20, 220))
        assert tracemalloc.get_traced_memory()[0] < 200_000
    finally:
        tracemalloc.stop()
