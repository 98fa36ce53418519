"""Where the process begins: `python -m proxy` is `cardcash-proxy`."""

import signal
import sys

# Before anything that takes time to import: SIGHUP never ends the proxy, so it waits until it is known whether this
# will be one (`proxy.process.begin_with_signals`).
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})

from proxy.cli import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
