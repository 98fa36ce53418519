"""What whoever started the process is told of its life, as systemd wants to be: sd_notify(3), sd_watchdog_enabled(3)."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import MutableMapping
from typing import Final

from proxy.telemetry.logs import log

#: Seconds that telling may take: only when nobody reads any more.
_PATIENCE: Final = 0.5
#: Words within the time after which silence is death: one that is late, and one that was left out, do not matter.
_WORDS: Final = 4


class ServiceManager:
    """Who is told; nobody, unless the environment says so. Nothing here raises: whoever cannot be told goes without."""

    def __init__(self, address: str = "", watchdog: float = 0.0) -> None:
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._watchdog = watchdog
        self._warned = False

    @classmethod
    def take(cls, environ: MutableMapping[str, str]) -> ServiceManager:
        """Read the environment, and remove what is read: other processes have nothing to tell."""
        address, period, pid = (environ.pop(name, "") for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"))
        is_time = period.isascii() and period.isdigit()
        watched = bool(address) and is_time and pid in ("", str(os.getpid()))
        return cls(address, int(period) / 1_000_000 if watched else 0.0)

    @property
    def alive_every(self) -> float:
        """Seconds between two words of `alive`; 0: nobody waits for them."""
        return self._watchdog / _WORDS

    def ready(self, addresses: list[str]) -> None:
        """Tell that callers are served, at these addresses, and that files were read again."""
        self._tell("READY=1", f"STATUS=Serving at {', '.join(addresses)}")

    def reloading(self) -> None:
        """Tell that files are being read again; `ready` ends it."""
        self._tell("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self, seconds: float) -> None:
        """Tell that the process ends, within so many seconds."""
        lasts = f"EXTEND_TIMEOUT_USEC={int(seconds * 1_000_000)}"
        self._tell("STOPPING=1", lasts, "STATUS=Draining: what is in flight is finished")

    def alive(self) -> None:
        """Tell that the process does what it is for."""
        self._tell("WATCHDOG=1")

    def _tell(self, *lines: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.settimeout(_PATIENCE)
                sock.connect(self._address)
                sock.sendall("\n".join(lines).encode())
        except (OSError, ValueError) as error:
            if not self._warned:
                self._warned = True
                log.warning("notify_failed", what="NOTIFY_SOCKET cannot be told", error=type(error).__name__)
