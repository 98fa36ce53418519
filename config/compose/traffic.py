"""Callers for the compose files: a little of everything, without end, through the proxies that are named as arguments.

Once a minute every token is revoked at the simulator ($SIMULATOR, optional), which the proxies repair unseen.
"""

from __future__ import annotations

import http.client
import itertools
import os
import sys
import time
import urllib.error
import urllib.request

#: Method, path, body. The last one is not there, as now and then in real life.
REQUESTS = [
    ("GET", "/v3/merchants/buy", None),
    ("POST", "/v3/carts", b'{"action":"buy"}'),
    ("GET", "/v3/carts", None),
    ("GET", "/v3/orders/buy", None),
    ("GET", "/v3/wallets", None),
    ("GET", "/v3/customers", None),
    ("GET", "/v3/orders/0", None),
]
SECONDS_BETWEEN = 0.25
REVOKE_EVERY = 60.0


def ask(method: str, url: str, body: bytes | None = None) -> None:
    """Send one request; whatever comes of it is the proxy's to show."""
    headers = {"Content-Type": "application/json"} if body else {}
    request = urllib.request.Request(url, body, headers, method=method)  # noqa: S310  # the addresses are ours
    try:
        with urllib.request.urlopen(request, timeout=100) as answer:  # noqa: S310
            answer.read()
    except (urllib.error.URLError, http.client.HTTPException, OSError):
        pass  # not there yet, or an answer that is an error


def main() -> None:
    """Run until the container is stopped."""
    simulator = os.environ.get("SIMULATOR")
    revoked = time.monotonic()
    for proxy, (method, path, body) in zip(itertools.cycle(sys.argv[1:]), itertools.cycle(REQUESTS), strict=False):
        ask(method, proxy + path, body)
        if simulator and time.monotonic() - revoked > REVOKE_EVERY:
            revoked = time.monotonic()
            ask("POST", simulator + "/_simulator/revoke", b"{}")
        time.sleep(SECONDS_BETWEEN)


if __name__ == "__main__":
    main()
