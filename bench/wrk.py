"""Load from wrk, the usual generator of closed loops in C: its command line, its Lua, its numbers.

Owns nothing else. load.py stands in where wrk is not installed; it takes more of the other core.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from bench.load import HEADERS, Ask, closed_loop
from bench.processes import BenchError, installed

# In wrk's done() latencies are microseconds. Its summary counts the answers that are 4xx or 5xx in errors.status.
_LUA = """
wrk.method = "{method}"
{body}
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format('\\nRESULT {{"requests": %d, "bytes": %d, "us": %d, "p50": %.1f, "p90": %.1f, "p99": %.1f, ' ..
    '"status": %d, "lost": %d}}\\n', summary.requests, summary.bytes, summary.duration, latency:percentile(50),
    latency:percentile(90), latency:percentile(99), e.status, e.connect + e.read + e.write + e.timeout))
end
"""


@dataclass(frozen=True, slots=True)
class Stretch:
    """One stretch of closed-loop load. Waits in milliseconds; `bad` are answers other than 2xx and lost ones."""

    requests: int
    bad: int
    seconds: float
    p50: float
    p90: float
    p99: float


async def closed_load(port: int, ask: Ask, *, connections: int, seconds: float, folder: Path) -> Stretch:
    """Keep `connections` busy for `seconds`, with wrk where it is installed. Raises BenchError."""
    wrk = installed("wrk")
    if wrk is None:
        tally = await closed_loop(port, [ask], connections=connections, seconds=seconds)
        waits = [tally.milliseconds(share) for share in (0.5, 0.9, 0.99)]
        return Stretch(tally.requests, tally.bad, tally.seconds, *waits)
    script = folder / f"{ask.verb.lower()}.lua"
    body = f'wrk.body = [==[{ask.body.decode()}]==]\nwrk.headers["Content-Type"] = "application/json"'
    script.write_text(_LUA.format(method=ask.verb, body=body if ask.body else ""))
    headers = [word for line in HEADERS for word in ("-H", line)]
    # wrk takes whole seconds only.
    times = ["-t1", f"-c{connections}", f"-d{max(1, math.ceil(seconds))}s", "--timeout", "10s"]
    process = await asyncio.create_subprocess_exec(
        *(wrk, *times, "-s", str(script), *headers, f"http://127.0.0.1:{port}{ask.path}"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        said, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    found = [line for line in said.decode().splitlines() if line.startswith("RESULT ")]
    if not found:
        raise BenchError(f"wrk failed: {said.decode().strip().splitlines()[-1:]}")
    got: Counter[str] = Counter(json.loads(found[0].removeprefix("RESULT ")))
    p50, p90, p99 = (got[name] / 1e3 for name in ("p50", "p90", "p99"))
    return Stretch(got["requests"], got["status"] + got["lost"], got["us"] / 1e6, p50, p90, p99)
