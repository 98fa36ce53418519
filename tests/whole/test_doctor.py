"""`doctor`: every step told, with what to do where it fails, and never a secret."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest
import trustme

from proxy.simulator import Simulator
from tests.server.harness import EMAIL, PASSWORD, RawUpstream, answer
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


async def test_the_login_is_left_out_on_demand(upstream: RawUpstream) -> None:
    steps = await doctor(
        upstream.url, "--no-login", code=0, CARDCASH_LOGIN__EMAIL=EMAIL, CARDCASH_LOGIN__PASSWORD=PASSWORD
    )
    assert steps["login"]["outcome"] == "skipped"
    assert upstream.logins == []


async def test_a_refused_login_is_tried_once(upstream: RawUpstream) -> None:
    upstream.login_answers += [answer(400, b'{"message":["Invalid login"]}')] * 5
    steps = await doctor(upstream.url, code=1, CARDCASH_LOGIN__EMAIL=EMAIL, CARDCASH_LOGIN__PASSWORD=PASSWORD)
    assert steps["login"]["outcome"] == "failed"
    assert len(upstream.logins) == 1


async def test_a_refused_application_id_names_the_setting(upstream: RawUpstream) -> None:
    upstream.session_answers.append(answer(400, b'{"message":["no x-cc-app was found"]}'))
    steps = await doctor(upstream.url, code=1)
    assert steps["session"]["outcome"] == "failed"
    assert "app_id" in steps["session"]["advice"]
    assert steps["login"]["outcome"] == "skipped"


async def test_a_clock_that_is_off_is_told_of(upstream: RawUpstream) -> None:
    token = upstream.token()
    late = b"Date: Thu, 01 Jan 2015 00:00:00 GMT"
    upstream.session_answers.append(answer(200, b"{}", b"authorization: " + token.encode(), late))
    steps = await doctor(upstream.url, code=0)
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


@pytest.mark.parametrize("trusted", [True, False])
async def test_the_certificate_is_looked_into(trusted: bool, tmp_path: Path) -> None:
    ca = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("localhost").configure_cert(context)
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(serve, "localhost", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    more = {"CARDCASH_UPSTREAM__CA_FILE": str(tmp_path / "ca.pem")} if trusted else {}
    steps = await doctor(f"https://localhost:{port}", code=1, **more)
    server.close()
    assert steps["tls"]["outcome"] == ("ok" if trusted else "failed")
    assert ("days left" in steps["tls"]["detail"]) is trusted
    assert trusted or "upstream.ca_file" in steps["tls"]["advice"]
    assert steps["session"]["outcome"] == ("failed" if trusted else "skipped")


async def test_bad_settings_are_one_line_each_and_exit_code_2() -> None:
    done = await run("doctor", CARDCASH_APP_ID="x", CARDCASH_LISTEN="nowhere")
    assert await done.ended() == 2
    assert done.out == b""
