"""A real Prometheus with the alerts of the project, on a clock that runs forty times as fast, or fifteen times."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from tests.house.pages import text_of

INSTALLED = shutil.which("prometheus") is not None
WHY_NOT = "prometheus is not installed (Debian: prometheus)"
#: Milliseconds that stand for a minute. All targets must be scraped in it, and a machine that is busy takes longer.
MINUTE = 1500 if os.getloadavg()[0] < 2 * (os.cpu_count() or 1) else 4000
_MINUTES = {"m": 1, "h": 60, "d": 1440}


def hastened(rules: str) -> str:
    """Write rules so that a minute of theirs is `MINUTE`."""

    def shorter(found: re.Match[str]) -> str:
        return f"{found[1]}{int(found[2]) * _MINUTES[found[3]] * MINUTE}ms{found[4]}"

    rules, ranges = re.subn(r"(\[|offset )(\d+)([mhd])(\]|\b)", shorter, rules)
    rules, waits = re.subn(r"(for: )(\d+)([mh])()$", shorter, rules, flags=re.MULTILINE)
    rules, ages = re.subn(r"< 600\b", f"< {10 * MINUTE / 1000}", rules)
    rules, limits = re.subn(r"> 30\b", "> 4", rules)
    rules, ends = re.subn(r"< 300\b", f"< {5 * MINUTE / 1000}", rules)
    assert ranges > 15 and waits > 8 and (ages, limits, ends) == (2, 1, 1), (ranges, waits, ages, limits, ends)
    return rules


def free_port() -> int:
    """Find a port that nobody listens on now."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class Prometheus:
    """Asks a running one."""

    def __init__(self, url: str, client: aiohttp.ClientSession) -> None:
        self.url = url
        self._client = client

    async def _asked(self, path: str, **query: str) -> Any:
        async with self._client.get(f"{self.url}/api/v1/{path}", params=query) as answer:
            told = await answer.json()
            assert told["status"] == "success", (query, told)
            return told["data"]

    async def query(self, expression: str) -> list[dict[str, Any]]:
        """Evaluate now: `metric` and `value` of each series."""
        found: list[dict[str, Any]] = (await self._asked("query", query=expression))["result"]
        return found

    async def query_range(self, expression: str, *, start: float, end: float) -> list[dict[str, Any]]:
        """Evaluate every second from `start` to `end`, Unix seconds: `metric` and `values` of each series."""
        asked = {"query": expression, "start": str(start), "end": str(end), "step": "1"}
        found: list[dict[str, Any]] = (await self._asked("query_range", **asked))["result"]
        return found

    async def firing(self) -> list[dict[str, Any]]:
        """List the alerts that fire, with `labels` and `annotations`."""
        return [alert for alert in (await self._asked("alerts"))["alerts"] if alert["state"] == "firing"]

    async def values(self, label: str, selector: str) -> list[str]:
        """List the values of a label, as a variable of a dashboard asks for them."""
        found: list[str] = await self._asked(f"label/{label}/values", **{"match[]": selector})
        return found


@contextlib.asynccontextmanager
async def prometheus(folder: Path, targets: list[dict[str, str]]) -> AsyncIterator[Prometheus]:
    """Run one that scrapes `targets` every `MINUTE`; each is `__address__`, `job` and other labels."""
    (folder / "alerts.yml").write_text(hastened(text_of("config/prometheus/alerts.yml")))
    scraped = [
        {"targets": [target["__address__"]], "labels": {k: v for k, v in target.items() if k != "__address__"}}
        for target in targets
    ]
    config = {
        "global": dict.fromkeys(("scrape_interval", "scrape_timeout", "evaluation_interval"), f"{MINUTE}ms"),
        "rule_files": ["alerts.yml"],
        "scrape_configs": [{"job_name": "any", "static_configs": scraped}],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    address = f"127.0.0.1:{free_port()}"
    said = folder / "said"
    with said.open("wb") as out:
        process = await asyncio.create_subprocess_exec(
            "prometheus",
            *(f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"),
            *(f"--web.listen-address={address}", "--log.level=warn"),
            stdout=out,
            stderr=out,
        )
    try:
        async with aiohttp.ClientSession() as client:
            one = Prometheus(f"http://{address}", client)
            async with asyncio.timeout(60):
                while not await _is_ready(one.url, client):
                    assert process.returncode is None, said.read_text()
                    await asyncio.sleep(0.05)
            yield one
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def _is_ready(url: str, client: aiohttp.ClientSession) -> bool:
    with contextlib.suppress(aiohttp.ClientError, json.JSONDecodeError):
        async with client.get(f"{url}/-/ready") as answer:
            return answer.status == 200
    return False
