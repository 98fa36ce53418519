"""`doctor`: every step told, with what to do where it fails, and never a secret."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme

from proxy.simulator import Simulator
from tests.cardcash import CardCash, Reply
from tests.server.harness import EMAIL, PASSWORD
from tests.session.redis.raw import answering
from tests.whole.processes import run

APP_ID = "demo-app-id"


async def doctor(origin: str, *flags: str, code: int, **environ: str) -> dict[str, Any]:
    """Run it; returns its steps by name."""
    settings = {"CARDCASH_APP_ID": APP_ID, "CARDCASH_UPSTREAM__ORIGIN": origin, **environ}
    done = await run("doctor", "--json", *flags, **settings)
    assert await done.ended() == code, done.text
    assert done.err == b""
    told = json.loads(done.out)
    assert told["ok"] is (code == 0)
    assert APP_ID not in done.text and environ.get("CARDCASH_LOGIN__PASSWORD", PASSWORD) not in done.text
    return {step["name"]: step for step in told["steps"]}


def outcomes(steps: dict[str, Any]) -> dict[str, str]:
    return {name: step["outcome"] for name, step in steps.items()}


GOOD = {"CARDCASH_LOGIN__EMAIL": "partner@example.com", "CARDCASH_LOGIN__PASSWORD": "demo-password"}


async def test_all_is_well_with_the_simulator(simulator: Simulator) -> None:
    steps = await doctor(simulator.url, code=0, **GOOD)
    assert outcomes(steps) == {
        "dns": "ok", "tcp": "ok", "tls": "skipped", "session": "ok", "clock": "ok", "login": "ok", "store": "skipped",
    }  # fmt: skip
    assert all(step["seconds"] is not None for step in steps.values() if step["outcome"] == "ok")


async def test_people_get_a_line_for_each_step_and_what_to_do(simulator: Simulator) -> None:
    environ = {"CARDCASH_APP_ID": APP_ID, "CARDCASH_UPSTREAM__ORIGIN": simulator.url} | GOOD
    done = await run("doctor", **environ | {"CARDCASH_LOGIN__PASSWORD": "another"})
    assert await done.ended() == 1
    lines = done.out.decode().splitlines()
    login = next(number for number, line in enumerate(lines) if " login " in line)
    assert lines[login].startswith("failed")
    assert "check login.email and login.password" in lines[login + 1]


async def test_the_login_is_left_out_on_demand(cardcash: CardCash) -> None:
    steps = await doctor(
        cardcash.url, "--no-login", code=0, CARDCASH_LOGIN__EMAIL=EMAIL, CARDCASH_LOGIN__PASSWORD=PASSWORD
    )
    assert steps["login"]["outcome"] == "skipped"
    assert cardcash.logins == []


async def test_a_refused_login_is_tried_once(cardcash: CardCash) -> None:
    cardcash.login_answers += [Reply(400, b'{"message":["Invalid login"]}')] * 5
    steps = await doctor(cardcash.url, code=1, CARDCASH_LOGIN__EMAIL=EMAIL, CARDCASH_LOGIN__PASSWORD=PASSWORD)
    assert steps["login"]["outcome"] == "failed"
    assert len(cardcash.logins) == 1


async def test_a_refused_application_id_names_the_setting(cardcash: CardCash) -> None:
    cardcash.session_answers.append(Reply(400, b'{"message":["no x-cc-app was found"]}'))
    steps = await doctor(cardcash.url, code=1)
    assert steps["session"]["outcome"] == "failed"
    assert "app_id" in steps["session"]["advice"]
    assert steps["login"]["outcome"] == "skipped"


async def test_a_clock_that_is_off_is_told_of(cardcash: CardCash) -> None:
    late = {"Date": "Thu, 01 Jan 2015 00:00:00 GMT", "authorization": cardcash.token()}
    cardcash.session_answers.append(Reply(200, b"{}", late))
    steps = await doctor(cardcash.url, code=0)
    assert steps["clock"]["outcome"] == "warning"
    assert "NTP" in steps["clock"]["advice"]


async def test_nobody_listening_is_told_with_the_port() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        steps = await doctor(f"http://127.0.0.1:{port}", code=1)
    assert steps["tcp"]["outcome"] == "failed"
    assert str(port) in steps["tcp"]["advice"]
    assert steps["session"]["outcome"] == "skipped"


async def test_a_name_that_is_none_is_told() -> None:
    steps = await doctor("https://nowhere.invalid", code=1)
    assert steps["dns"]["outcome"] == "failed"
    assert "DNS" in steps["dns"]["advice"]


@asynccontextmanager
async def secured(certificate: trustme.LeafCert) -> AsyncIterator[str]:
    """Somebody who shows this certificate at `localhost`, and closes."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with await asyncio.start_server(serve, "localhost", 0, ssl=context) as server:
        yield f"https://localhost:{server.sockets[0].getsockname()[1]}"


@pytest.fixture
def authority(tmp_path: Path) -> trustme.CA:
    """Whom `trusting` trusts."""
    ca = trustme.CA(organization_name="Root of the test")
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    return ca


@pytest.fixture
def trusting(tmp_path: Path) -> dict[str, str]:
    return {"CARDCASH_UPSTREAM__CA_FILE": str(tmp_path / "ca.pem")}


async def test_the_chain_of_the_certificate_is_told_with_the_days_left(
    authority: trustme.CA, trusting: dict[str, str]
) -> None:
    async with secured(authority.create_child_ca().issue_cert("localhost")) as origin:
        steps = await doctor(origin, code=1, **trusting)
    assert steps["tls"]["outcome"] == "ok"
    assert re.search(r"certificate for localhost by \S.* ← Root of the test, \d+ days left", steps["tls"]["detail"])
    assert steps["session"]["outcome"] == "failed"


async def test_a_certificate_that_ends_soon_is_warned_of(authority: trustme.CA, trusting: dict[str, str]) -> None:
    soon = datetime.now(tz=UTC) + timedelta(days=5, hours=1)
    async with secured(authority.issue_cert("localhost", common_name="api", not_after=soon)) as origin:
        steps = await doctor(origin, code=1, **trusting)
    assert steps["tls"]["outcome"] == "warning"
    assert "5 days left" in steps["tls"]["detail"]
    assert "renew the certificate of api" in steps["tls"]["advice"]


YESTERDAY = datetime.now(tz=UTC) - timedelta(days=1)


@pytest.mark.parametrize(
    ("shown", "words"),
    [
        (lambda ca: trustme.CA().issue_cert("localhost"), "upstream.ca_file"),
        (lambda ca: ca.issue_cert("other.example"), "another name"),
        (lambda ca: ca.issue_cert("localhost", not_before=YESTERDAY - timedelta(days=1), not_after=YESTERDAY), "clock"),
    ],
    ids=["unknown authority", "other name", "expired"],
)
async def test_a_certificate_that_is_not_accepted_says_why_and_what_to_do(
    shown: Callable[[trustme.CA], trustme.LeafCert], words: str, authority: trustme.CA, trusting: dict[str, str]
) -> None:
    async with secured(shown(authority)) as origin:
        steps = await doctor(origin, code=1, **trusting)
    assert steps["tls"]["outcome"] == "failed"
    assert steps["tls"]["detail"].startswith("The TLS certificate of localhost was not accepted (")
    assert words in steps["tls"]["advice"]
    assert steps["session"]["outcome"] == "skipped"


async def test_who_speaks_no_tls_is_told(simulator: Simulator) -> None:
    steps = await doctor(simulator.url.replace("http:", "https:"), code=1)
    assert steps["tls"]["outcome"] == "failed"
    assert "may not speak TLS" in steps["tls"]["advice"]


@pytest.mark.parametrize("ends", ["hangs", "closes"])
async def test_who_is_reached_and_does_not_answer_in_tls_is_no_firewall(ends: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while ends == "hangs" and await reader.read(65536):
            pass
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        origin = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        steps = await doctor(origin, code=1, CARDCASH_UPSTREAM__CONNECT_TIMEOUT="1s")
    assert (steps["tcp"]["outcome"], steps["tls"]["outcome"]) == ("ok", "failed")
    assert "TLS handshake" in steps["tls"]["detail"]
    assert "may not speak TLS" in steps["tls"]["advice"]


async def test_a_proxy_on_the_way_that_does_not_answer_is_told() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(65536):
            pass
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        proxy = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        environ = {
            "CARDCASH_UPSTREAM__TRUST_ENV": "true",
            "HTTPS_PROXY": proxy,
            "CARDCASH_UPSTREAM__CONNECT_TIMEOUT": "1s",
        }
        steps = await doctor("https://cardcash.example", code=1, **environ)
    assert (steps["tcp"]["outcome"], steps["tls"]["outcome"]) == ("ok", "failed")
    assert steps["tls"]["detail"] == "The proxy 127.0.0.1 did not open a tunnel in time"
    assert "HTTPS_PROXY" in steps["tls"]["advice"]


SESSION, LOGIN = "/v3/session", "/v3/customers/login"


@pytest.mark.parametrize(
    ("fault", "order", "detail", "advised"),
    [
        ("fail", {"path": SESSION, "status": 503}, "with 503", "trouble of its own"),
        ("fail", {"path": SESSION, "status": 429}, "with 429", "session.store"),
        ("fail", {"path": SESSION, "status": 403, "html": True}, "with 403", "turns this machine away"),
        ("fail", {"path": SESSION, "status": 404, "html": True}, "with 404", "upstream.base_path"),
        ("fail", {"path": LOGIN, "status": 200, "html": True}, "with a web page", "upstream.origin"),
        ("delay", {"path": SESSION, "seconds": 5}, "did not answer in time", "slow or down"),
        ("reset", {"path": LOGIN, "when": "before_body"}, "before answering", "trouble of its own"),
    ],
)
async def test_whatever_becomes_of_a_call_is_told_with_what_to_do(
    simulator: Simulator, fault: str, order: dict[str, Any], detail: str, advised: str
) -> None:
    simulator.fault(fault, times=-1, **order)
    steps = await doctor(simulator.url, code=1, CARDCASH_UPSTREAM__RESPONSE_TIMEOUT="1s", **GOOD)
    (failed,) = [step for step in steps.values() if step["outcome"] == "failed"]
    assert failed["name"] == ("session" if order["path"] == SESSION else "login")
    assert detail in failed["detail"]
    assert advised in failed["advice"]


async def test_a_store_that_may_not_be_used_says_what_to_do(simulator: Simulator, tmp_path: Path) -> None:
    (tmp_path / "session.json").write_text("{}")
    (tmp_path / "session.json").chmod(0o644)
    steps = await doctor(simulator.url, code=1, CARDCASH_SESSION__STORE=f"file://{tmp_path}/session.json")
    assert "open to other users" in steps["store"]["detail"]
    assert "chmod 600" in steps["store"]["advice"]


@pytest.mark.parametrize(
    ("code", "detail", "advice"),
    [
        (b"NOAUTH", "a Sentinel wants a password", "write it into session.store_sentinel_password or its file"),
        (b"WRONGPASS", "a Sentinel refuses the password in session.store_sentinel_password", "config/README.md"),
    ],
)
async def test_a_password_of_the_sentinels_is_told_as_theirs(
    simulator: Simulator, code: bytes, detail: str, advice: str
) -> None:
    async with answering(lambda _: b"-%b hush\r\n" % code) as port:
        steps = await doctor(
            simulator.url,
            code=1,
            CARDCASH_SESSION__STORE=f"redis+sentinel://127.0.0.1:{port}/main",
            **({"CARDCASH_SESSION__STORE_SENTINEL_PASSWORD": "not-theirs"} if code == b"WRONGPASS" else {}),
        )
    assert steps["store"]["outcome"] == "failed"
    assert steps["store"]["detail"] == f"127.0.0.1:{port}: {detail}"
    assert advice in steps["store"]["advice"]


async def test_bad_settings_are_one_line_each_and_exit_code_2() -> None:
    done = await run("doctor", CARDCASH_APP_ID="x", CARDCASH_LISTEN="nowhere")
    assert await done.ended() == 2
    assert done.out == b""
