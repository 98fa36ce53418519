"""The start: what it leaves out, and that what is left out harms nobody."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import trustme

BEGIN = "import gc, ssl, sys; from proxy.memory import begin_lean, settle; begin_lean(); "


def said(code: str, **environ: str) -> str:
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, capture_output=True, text=True, timeout=30, check=False, env=environ or None)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_tls_contexts_made_after_a_lean_start_trust_what_the_system_trusts(tmp_path: Path) -> None:
    authorities = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(str(authorities))
    code = BEGIN + "print(len(ssl.create_default_context().get_ca_certs()))"
    assert said(code, SSL_CERT_FILE=str(authorities), SSL_CERT_DIR=str(tmp_path)) == "1"
    code = (
        BEGIN
        + "c = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT); c.set_default_verify_paths(); print(len(c.get_ca_certs()))"
    )
    assert said(code, SSL_CERT_FILE=str(authorities), SSL_CERT_DIR=str(tmp_path)) == "1"


def test_garbage_is_collected_again_once_the_start_is_over() -> None:
    assert said(BEGIN + "print(gc.isenabled()); settle(); print(gc.isenabled())").split() == ["False", "True"]


def test_a_health_check_imports_neither_settings_nor_an_event_loop() -> None:
    code = "import sys, proxy.cli; proxy.cli.main(['health', '--admin-listen', '127.0.0.1:1']); print(*sys.modules)"
    loaded = set(said(code).split())
    assert loaded & {"asyncio", "ssl", "aiohttp", "yaml", "dataclasses", "logging", "proxy.settings"} == set()


def test_serving_imports_nothing_of_the_simulator_of_redis_and_of_yaml() -> None:
    code = BEGIN + "import proxy.app, proxy.commands.serve, proxy.running; print(*sys.modules)"
    loaded = set(said(code).split())
    assert loaded & {"yaml", "redis", "cryptography", "proxy.simulator", "jwt", "rich"} == set()
