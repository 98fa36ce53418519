"""Run a module with every call of a function counted: a measure of cost that is the same on a busy machine.

`python -m bench.counted MODULE ARGUMENT…`. Each line on standard input is answered on standard error with the number of
calls so far, of Python and of C functions, in the main thread.
"""

from __future__ import annotations

import runpy
import sys
import threading
from types import FrameType


class _Count:
    """Counts in the thread that installed it; others only read."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, _: FrameType, event: str, __: object) -> None:
        if event in ("call", "c_call"):
            self.calls += 1


def main() -> None:
    """Run the module named by the first argument as a program."""
    count = _Count()

    def tell() -> None:
        for _ in sys.stdin:
            sys.stderr.write(f"{count.calls}\n")
            sys.stderr.flush()

    threading.Thread(target=tell, daemon=True).start()
    sys.argv = sys.argv[1:]
    sys.setprofile(count)
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
