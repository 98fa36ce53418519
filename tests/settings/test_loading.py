"""Secrets and their files, defaults that depend on others, cross checks, all faults at once."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trustme

from proxy import __version__
from proxy.core.secret import Secret
from proxy.settings import Settings, SettingsError

if TYPE_CHECKING:
    from tests.settings.conftest import Faults, Load, Write


def test_all_faults_of_all_sources_at_once(faults: Faults, tmp_path: Path) -> None:
    text = "app_id: a b\nupstream:\n  connect_timeout: 0\n  nothing: 1\nsession: {store: 'redis://h:x'}\n"
    found = faults(text, {"log.level": "loud"}, DRAIN__DELAY="-1", WHAT="x")
    file = tmp_path / "proxy.yaml"
    assert [fault.split(")")[0].split(" is not a setting")[0] for fault in found] == [
        f"a key of upstream ({file} line 4",
        "environment variable CARDCASH_… (its name is not repeated, since it may be a secret",
        f"app_id ({file} line 1",
        f"upstream.connect_timeout ({file} line 3",
        f"session.store ({file} line 5",
        "drain.delay (environment variable CARDCASH_DRAIN__DELAY",
        "log.level (flag --log-level",
    ]


def test_faults_of_single_settings_do_not_hide_those_between_settings(faults: Faults) -> None:
    found = faults("upstream: {connect_timeout: never, origin: http://10.0.0.1}\nlisten: 0.0.0.0:80")
    assert [fault.partition(" ")[0] for fault in found] == ["upstream.connect_timeout", "upstream.origin", "listen"]


def test_a_faulty_setting_is_not_cross_checked(faults: Faults) -> None:
    assert len(faults("callers: {allowed_networks: [nowhere]}\nlisten: 0.0.0.0:80")) == 1


def test_an_overridden_value_is_not_looked_at(load: Load) -> None:
    assert load("log: {level: loud}", LOG__LEVEL="error").log.level == "error"


def test_production_picks_its_origin(load: Load) -> None:
    assert load(ENVIRONMENT="production").upstream.origin == "https://production-api.cardcash.com"
    assert load("environment: Production\nupstream: {base_path: ''}").upstream.origin.startswith("https://production-")


def test_an_origin_of_ones_own_beats_the_environment_setting(load: Load) -> None:
    assert load("environment: production", UPSTREAM__ORIGIN="https://h/").upstream.origin == "https://h"


def test_plain_http_goes_to_loopback_only(load: Load, faults: Faults) -> None:
    assert load(UPSTREAM__ORIGIN="http://127.0.0.1:9").upstream.origin == "http://127.0.0.1:9"
    assert "upstream.allow_plain_http" in faults(UPSTREAM__ORIGIN="http://simulator:9")[0]
    assert load(UPSTREAM__ORIGIN="http://simulator:9", UPSTREAM__ALLOW_PLAIN_HTTP="true").upstream.allow_plain_http


def test_user_agent_names_the_version(load: Load) -> None:
    assert load().upstream.user_agent == f"cardcash-proxy/{__version__}"


def test_secret_from_a_file(load: Load, write: Write) -> None:
    path = write("from-file\n")
    settings = load(APP_ID_FILE=str(path))
    assert (settings.app_id.reveal(), settings.app_id_file) == ("from-file", path)


def test_password_from_a_file(load: Load, write: Write) -> None:
    path = write("pass wörd\n")
    login = load(f"login:\n  email: a@b.c\n  password_file: {path}").login
    assert login.configured
    assert (login.password, login.password_file) == (Secret("pass wörd"), path)


def test_secret_and_file_in_one_source_are_a_fault(faults: Faults, write: Write) -> None:
    (fault,) = faults(APP_ID="hunter2", APP_ID_FILE=str(write("x")))
    assert "CARDCASH_APP_ID)" in fault
    assert "CARDCASH_APP_ID_FILE) are both set; keep one" in fault


def test_secret_and_file_in_different_sources_the_higher_wins(load: Load, write: Write) -> None:
    path = write("from-file")
    assert load("app_id: low", APP_ID_FILE=str(path)).app_id.reveal() == "from-file"
    settings = load("app_id_file: /nowhere", APP_ID="high")
    assert (settings.app_id.reveal(), settings.app_id_file) == ("high", None)


@pytest.mark.parametrize(
    ("content", "problem"), [("", "is empty"), ("a\nb", "more than one line"), ("a b", "has blanks")]
)
def test_a_bad_secret_file_is_one_fault(faults: Faults, write: Write, content: str, problem: str) -> None:
    path = write(content)
    (fault,) = faults(APP_ID_FILE=str(path))
    assert fault.startswith("app_id_file (environment variable CARDCASH_APP_ID_FILE): the file ")
    assert str(path) not in fault
    assert problem in fault


def test_of_a_missing_secret_file_the_setting_is_named(faults: Faults) -> None:
    (fault,) = faults("app_id_file: /nowhere/id")
    assert fault.startswith("app_id_file (")
    assert "line 1): the file cannot be read: No such file" in fault


def test_a_missing_password_file_is_no_missing_password(faults: Faults) -> None:
    assert len(faults("login: {email: a@b, password_file: /nowhere}")) == 1


def test_an_email_without_a_password(faults: Faults) -> None:
    (fault,) = faults(LOGIN__EMAIL="a@b")
    assert fault.startswith(
        "login.password is missing, though login.email (environment variable CARDCASH_LOGIN__EMAIL)"
    )


def test_a_password_without_an_email(faults: Faults) -> None:
    (fault,) = faults(LOGIN__PASSWORD="hunter2")
    assert fault.startswith("login.email is missing")


def test_no_login_is_fine(load: Load) -> None:
    assert not load().login.configured


def test_a_password_keeps_its_blanks(load: Load) -> None:
    assert load(LOGIN__EMAIL="a@b", LOGIN__PASSWORD=" x ").login.password == Secret(" x ")


@pytest.mark.parametrize("address", ["0.0.0.0:8080", "[::]:8080", "10.0.0.1:8080", "myhost:8080"])
def test_a_wide_listen_address_needs_networks(load: Load, faults: Faults, address: str) -> None:
    (fault,) = faults(LISTEN=f"127.0.0.1:1,{address}")
    assert fault.startswith(f"listen (environment variable CARDCASH_LISTEN): {address} can be reached")
    assert str(load(LISTEN=address, CALLERS__ALLOWED_NETWORKS="10.0.0.0/8").listen[0]) == address


def test_the_admin_port_may_be_wide(load: Load) -> None:
    assert str(load(ADMIN__LISTEN="0.0.0.0:8081").admin.listen[0]) == "0.0.0.0:8081"


def test_a_socket_is_not_wide(load: Load) -> None:
    assert load(LISTEN="unix:/run/proxy.sock").listen[0].path == "/run/proxy.sock"


def test_the_admin_port_needs_an_address_of_its_own(faults: Faults) -> None:
    assert "127.0.0.1:8080 is in listen too" in faults(ADMIN__LISTEN="127.0.0.1:8080")[0]


def test_each_worker_needs_a_connection_of_its_own(load: Load, faults: Faults) -> None:
    (fault,) = faults(WORKERS="4", UPSTREAM__MAX_CONNECTIONS="3")
    assert "workers (" in fault and "upstream.max_connections" in fault
    assert load(WORKERS="3", UPSTREAM__MAX_CONNECTIONS="3").workers == 3


def test_one_body_fits_into_the_total(load: Load, faults: Faults) -> None:
    assert "limits.replay_total" in faults(LIMITS__REPLAY_BODY="2MiB", LIMITS__REPLAY_TOTAL="1MiB")[0]
    assert load(LIMITS__REPLAY_BODY="0", LIMITS__REPLAY_TOTAL="0").limits.replay_total == 0


def test_a_ca_file_must_hold_certificates(load: Load, faults: Faults, write: Write, tmp_path: Path) -> None:
    good = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(str(good))
    assert load(UPSTREAM__CA_FILE=str(good)).upstream.ca_file == good
    assert "no certificates in PEM form" in faults(UPSTREAM__CA_FILE=str(write("nothing")))[0]
    assert "cannot be read: No such file" in faults(UPSTREAM__CA_FILE="/nowhere.pem")[0]


@pytest.mark.parametrize(
    "text",
    [
        "environment: staging",
        "upstream: {max_connections: 0}",
        "upstream: {response_timeout: 0}",
        "limits: {in_flight: 0}",
        "session: {eager: perhaps}",
        "session: {keepalive_path: /}",
        "log: {format: xml}",
        "login: {email: [a], password: b}",
        "listen: []",
        "admin: {listen: 8081}",
    ],
)
def test_refused_values(faults: Faults, text: str) -> None:
    assert len(faults(text)) == 1


def test_settings_are_frozen(load: Load) -> None:
    settings = load()
    with pytest.raises(FrozenInstanceError):
        settings.environment = "production"  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        settings.upstream.origin = "https://x"  # type: ignore[misc]


def test_built_in_code_nothing_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENVIRONMENT", "production")
    assert Settings(app_id=Secret("x")).environment == "sandbox"


@pytest.mark.parametrize("number", [1, 2, 64])
def test_there_may_be_up_to_64_workers(load: Load, number: int) -> None:
    assert load(WORKERS=str(number)).workers == load(f"workers: {number}").workers == number


@pytest.mark.parametrize("text", ["0", "65", "-2", "two", "1.5"])
def test_a_number_of_workers_that_cannot_be_is_told(load: Load, text: str) -> None:
    with pytest.raises(SettingsError, match="workers"):
        load(WORKERS=text)


def test_a_drain_outlasts_what_cardcash_takes_to_time_out(load: Load) -> None:
    assert load("app_id: app").drain.timeout == 100
