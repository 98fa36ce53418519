"""What is wrong with a command line and with the configuration is told at once, a line for each fault, and no secret."""

from __future__ import annotations

import pytest

from tests.whole.processes import run


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (
            "check --upstream-orign=x --listen y --workers z extra",
            ['did you mean "--upstream-origin"?', "too many", "listen[0] (flag --listen)", "workers (flag --workers)"],
        ),
        ("wait --timeout x --nope", ["is not a duration", "a flag is unknown"]),
        ("wait --timeout x --admin-listen foo", ["--timeout: ", "(flag --admin-listen)"]),
        ("health --nope --config /nowhere.yaml", ["a flag is unknown", "/nowhere.yaml (--config) cannot be read"]),
        ("session statsu --watch x", ['did you mean "status"?', "--watch: "]),
        ("session --watch x --admin-listen y", ["--watch: ", "ACTION", "(flag --admin-listen)"]),
        ("session renew --watch --admin-listen y", ["status only", "(flag --admin-listen)"]),
        (
            "demo --listen x --admin-listen y --simulator-listen",
            ["--listen: ", "--admin-listen: ", "--simulator-listen: "],
        ),
        ("simulate --token-ttl x --refresh-window y --set seed=z", ["--token-ttl: ", "--refresh-window: ", "seed: "]),
        ("simulate --set foo=1 --set token_ttl=x --set bar", ["foo", "token_ttl: ", "NAME=VALUE"]),
        ("simulate --set foo=1 --set", ["--set: expected", "foo"]),
        ("check --upstream-orign x", ['did you mean "--upstream-origin"?']),
        ("check a b c", ["too many"]),
    ],
)
async def test_all_faults_of_a_command_line_are_told_at_once(words: str, parts: list[str]) -> None:
    done = await run(*words.split())
    assert await done.ended() == 2
    lines = done.err.decode().splitlines()
    assert len(lines) == len(parts)
    assert all(part in line for part, line in zip(parts, lines, strict=True)), lines


@pytest.mark.parametrize("command", ["check", "serve", "doctor"])
@pytest.mark.parametrize("wrong", ["--workers-x=1", "--workers", "--drain-delay", "--help=x", "extra"])
async def test_a_fault_of_the_command_line_hides_none_of_the_configuration(command: str, wrong: str) -> None:
    done = await run(command, wrong, CARDCASH_APP_ID="x", CARDCASH_WORKERS="0", CARDCASH_LOG__LEVEL="loud")
    assert await done.ended() == 2
    assert done.out == b""
    first, *others = done.err.decode().splitlines()
    assert first.endswith(f"; see cardcash-proxy {command} --help")
    assert [line.split()[1] for line in others] == ["workers", "log.level"]


@pytest.mark.parametrize("wrong", ["--app-id-file", "--app-id-flie=/run/id", "--config"])
async def test_what_a_flag_that_cannot_be_read_may_have_said_is_not_called_missing(wrong: str) -> None:
    done = await run("check", wrong)
    assert await done.ended() == 2
    assert len(done.err.splitlines()) == 1


async def test_a_secret_that_went_astray_on_a_command_line_is_repeated_by_no_fault() -> None:
    words = ["doctor", "--json=zebra", "-hzebra", "--help=zebra", "--zebra", "zebra", "--app-id", "zebra", "--workers"]
    done = await run(*words)
    assert await done.ended() == 2
    assert "zebra" not in done.text
    assert len(done.err.splitlines()) == 6
    assert b"zebra" not in (await run("simulate", "--set", "zebra")).err
