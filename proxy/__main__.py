"""Where the process begins: `python -m proxy` is `cardcash-proxy`."""

# Not `signal`, which takes a millisecond to import: this is what it wraps, and is in Python from its start.
import _signal  # type: ignore[import-not-found]
import sys

# Before anything that takes time to import: what a signal means is known when the command is (`begin_with_signals` of
# `proxy.process`), and waits until then. SIGHUP never ends the proxy, and SIGTERM is no failure of it.
_signal.pthread_sigmask(_signal.SIG_BLOCK, {_signal.SIGHUP, _signal.SIGTERM, _signal.SIGINT})

from proxy.cli import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
