"""What CardCash knows the proxy by never comes down, wherever in an answer's head it stands."""

from __future__ import annotations

import pytest

from tests.conftest import StartProxy
from tests.server.harness import APP_ID, RawUpstream, Running, answer, jwt


@pytest.mark.parametrize(
    "line",
    [
        "x-cc-app: {other}",
        "X-CC-App: {app}",
        'WWW-Authenticate: Bearer realm="x", token="{token}"',
        "X-Debug: Authorization=Bearer {token}; id={app}",
        "X-Whose: {app}",
        "X-Whose-Loud: {loud}",
        "Location: /v3/next?access_token={token}",
        "Link: </v3/{app}/next>; rel=next",
        "X-{app}: yes",
        'ETag: "{token}"',
        "Content-Type: text/plain; token={token}",
    ],
)
@pytest.mark.parametrize("status", [200, 302, 400, 401, 500])
async def test_a_line_with_the_token_or_the_application_id_never_comes_down(
    upstream: RawUpstream, proxy: Running, line: str, status: int
) -> None:
    assert (await proxy.ask("GET /a")).status == 200
    token = upstream.tokens[-1]
    text = line.format(app=APP_ID, token=token, other="somebody-elses", loud=APP_ID.upper())
    upstream.answers.append(answer(status, b"a body", b"X-Before: 1", text.encode(), b"X-After: 2"))
    got = await proxy.ask("GET /a")
    for secret in (APP_ID, token, "somebody-elses"):
        assert secret.lower().encode() not in got.head.lower()
    assert (got.status, got.value("x-before"), got.value("x-after"), got.body) == (status, b"1", b"2", b"a body")


async def test_the_reason_is_left_out_when_it_holds_the_token(upstream: RawUpstream, proxy: Running) -> None:
    await proxy.ask("GET /a")
    upstream.answers.append(answer(403, b"", reason=b"No " + upstream.tokens[-1].encode()))
    got = await proxy.ask("GET /a")
    assert (got.status, got.reason) == (403, b"")


async def test_a_token_that_the_same_answer_brings_is_held_and_hidden_at_once(
    upstream: RawUpstream, proxy: Running
) -> None:
    new = jwt(99)
    upstream.answers.append(answer(200, b"", b"authorization: " + new.encode(), b"X-New: " + new.encode()))
    got = await proxy.ask("GET /a")
    assert new.encode() not in got.head


async def test_a_short_id_hides_only_lines_in_which_it_stands_as_a_word(
    upstream: RawUpstream, start_proxy: StartProxy
) -> None:
    proxy = await start_proxy(APP_ID="app")
    upstream.default = answer(200, b"{}", b"Content-Type: application/json", b"X-Whose: (app)", b"X-Map: mapped")
    got = await proxy.ask("GET /a")
    assert got.value("content-type") == b"application/json"
    assert (got.value("x-whose"), got.value("x-map")) == (None, b"mapped")


async def test_a_token_that_was_held_before_never_comes_down_either(upstream: RawUpstream, proxy: Running) -> None:
    """It may be good for as long as it lives."""
    assert (await proxy.ask("GET /a")).status == 200
    older, new = upstream.tokens[-1], upstream.token()
    upstream.answers += [
        answer(200, b"", b"authorization: " + new.encode()),
        answer(200, b"", b"X-Old: " + older.encode()),
    ]
    assert (await proxy.ask("GET /a")).status == 200
    got = await proxy.ask("GET /a")
    assert upstream.requests[-1].token == new
    assert (got.status, got.value("x-old")) == (200, None)
