"""`--workers N`: a supervisor that proxies nothing, and N proxies as processes of their own on the same addresses.

supervisor: starts, restarts and stops them · doors: the sockets they accept from · folder: their session and admin sockets ·
orders: what a worker is told · child: one worker as the supervisor sees it · worker: the process itself ·
admin: one admin port for all · asking: how it asks them · totals, picture: sums, without I/O.
"""


class WorkerFailed(Exception):
    """A worker could not start; the sentence says why, `code` is the exit code that belongs to it."""

    def __init__(self, sentence: str, code: int) -> None:
        super().__init__(sentence)
        self.code = code
