"""What is in the file of `file.py`: its format, and the reading of it with suspicion. No I/O, no clock.

`{"version": 1, "entries": {<key of the binding>: {"written", "token", "latches", "fingerprint", "others", "pause"}}}`. Times
are Unix seconds: another process's steady clock means nothing here. "latches" are the refusals of `Stored`, "others" those
of other secrets, by their fingerprints.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeGuard

from proxy.core.dialect import well_formed
from proxy.core.token import LONGEST_LIFETIME, SHORTEST_LIFETIME, Moment, Source, Token
from proxy.session.stores import FAILURES_LAST

#: Bytes; eight entries with the longest token that is taken from CardCash (8 KiB) and its claims need a fraction of it.
LARGEST: Final = 1024 * 1024
#: Bindings in one file: a few proxies, and those before the last changes of settings.
_MOST_ENTRIES: Final = 8
#: Seconds by which a token may come from the future: clocks are corrected in small steps all the time.
_FUTURE: Final = 60.0
_VERSION: Final = 1
#: Far beyond what can be: the longest pause (seconds), and failures in a row.
_LONGEST_PAUSE: Final = 3600.0
_MOST_FAILURES: Final = 1_000_000_000
#: Beyond any time, in microseconds too, and within what every number can be turned into.
_LARGEST_NUMBER: Final = 1e18
#: Secrets whose refusals are remembered: those of a rollout, and of one before it.
_MOST_REFUSED: Final = 4
#: What is stored of a token.
_STORED: Final = frozenset({"value", "born", "lifetime", "identity", "own_login", "marks", "login_lost"})
#: What can be refused.
_REFUSALS: Final = frozenset({"app_id", "login"})


def token_content(token: Token) -> dict[str, Any]:
    """Return what is stored of a token, as JSON can hold it."""
    return {"born": token.born.wall} | {name: getattr(token, name) for name in sorted(_STORED - {"born"})}


def read_token(content: object) -> Token | None:
    """Return the token in `content` if everything about it is sound; only the wall clock knows of its birth, see `aged`."""
    if not isinstance(content, dict) or content.keys() | {"login_lost"} != _STORED:
        return None
    value, born, lifetime = content["value"], content["born"], content["lifetime"]
    identity, own_login, marks = content["identity"], content["own_login"], content["marks"]
    # The value becomes a header field: nothing but a token may come out of a file.
    if not isinstance(value, str) or well_formed(value) != value:
        return None
    if not _is_number(born) or not _is_number(lifetime) or not SHORTEST_LIFETIME <= lifetime <= LONGEST_LIFETIME:
        return None
    if not isinstance(identity, str | None) or not isinstance(own_login, bool) or not isinstance(marks, dict):
        return None
    if not all(isinstance(mark, list) and len(mark) == 2 for mark in marks.values()):
        return None
    lost = content.get("login_lost") is True
    birth = Moment(float("-inf"), float(born))
    return Token(value, birth, float(lifetime), Source.STORE, identity, own_login, marks=marks, login_lost=lost)


def is_alive(token: Token, wall: float) -> bool:
    """Say whether its life lasts by the wall clock; what was born in the future has an age nobody knows."""
    return -_FUTURE <= wall - token.born.wall < token.lifetime


def aged(token: Token, now: Moment, *, app_id: str) -> Token | None:
    """Return a stored token as one whose age is counted by both clocks; None when its life is over."""
    if not is_alive(token, now.wall):
        return None
    born = Moment(now.steady - max(0.0, now.wall - token.born.wall), token.born.wall)
    return replace(token, born=born, app_id=app_id)


@dataclass(frozen=True, slots=True)
class StoredPause:
    """The pause after failures in a row: when the last one was, and how many seconds none other may begin."""

    failures: int = 0
    began: float = 0.0
    seconds: float = 0.0

    @classmethod
    def read(cls, content: object) -> StoredPause:
        """Return the pause in `content`; none when there is anything unsound about it."""
        if not isinstance(content, list) or len(content) != 3 or not all(map(_is_number, content)):
            return cls()
        failures, began, seconds = content
        sound = 0 < failures < _MOST_FAILURES and 0 <= seconds <= _LONGEST_PAUSE
        return cls(int(failures), float(began), float(seconds)) if sound else cls()

    def left(self, wall: float) -> float:
        """Seconds that are left of it; 0 also when the clock was set to before it began."""
        return max(0.0, self.seconds - (wall - self.began)) if wall >= self.began - _FUTURE else 0.0

    def failures_at(self, wall: float) -> int:
        """Failures in a row, as long as they count."""
        return self.failures if abs(wall - self.began) < self.seconds + FAILURES_LAST else 0


Refused = dict[str, dict[str, str]]


def with_refusals(
    refused: Refused, fingerprint: str, refusals: Mapping[str, str], *, instead_of: str | None = None
) -> Refused:
    """Add what was refused of the secrets with this fingerprint (`instead_of` another of the same), the last of a few.

    Nothing was: all of it is forgotten.
    """
    others = [(other, what) for other, what in refused.items() if other not in {fingerprint, instead_of}]
    return dict([*others, (fingerprint, dict(refusals))][-_MOST_REFUSED:]) if refusals else {}


def refused_content(refused: Refused) -> dict[str, Any]:
    """Return what JSON can hold of it."""
    *others, (fingerprint, last) = [*refused.items()] or [("", {})]
    return {"latches": last, "fingerprint": fingerprint, "others": dict(others)}


def read_refused(content: dict[str, Any]) -> Refused | None:
    """Read what `refused_content` has made; None when anything about it is unsound."""
    fingerprint, last, others = content.get("fingerprint"), content.get("latches"), content.get("others", {})
    if (
        not isinstance(fingerprint, str)
        or not isinstance(others, dict)
        or not all(map(_is_refusals, (last, *others.values())))
    ):
        return None
    return {**others, fingerprint: last} if last else others


def _is_refusals(content: object) -> bool:
    return (
        isinstance(content, dict)
        and content.keys() <= _REFUSALS
        and all(isinstance(sentence, str) and sentence.isprintable() for sentence in content.values())
    )


@dataclass(slots=True, repr=False)
class Entry:
    """All that is stored for one binding. `refused`: by slow salted hashes of the secrets, the latest last."""

    token: Token | None = None
    refused: Refused = field(default_factory=dict)
    written: float = 0.0
    pause: StoredPause = StoredPause()

    @classmethod
    def read(cls, content: object) -> Entry | None:
        """Return the entry in `content` if everything about it is sound."""
        if not isinstance(content, dict):
            return None
        written, refused = content.get("written"), read_refused(content)
        if refused is None or not _is_number(written):
            return None
        entry = cls(refused=refused, written=written)
        if (token := content.get("token")) is not None:
            entry.token = read_token(token)
            if entry.token is None:
                return None
        entry.pause = StoredPause.read(content.get("pause"))
        return entry

    def content(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        return {
            "written": self.written,
            "token": None if self.token is None else token_content(self.token),
            **refused_content(self.refused),
            "pause": [self.pause.failures, self.pause.began, self.pause.seconds],
        }


Entries = dict[str, Entry]


def parse(raw: bytes) -> tuple[Entries, bool]:
    """Read a file; returns the sound entries by their keys, and whether all of it was sound."""
    try:
        content = json.loads(raw.decode()) if len(raw) <= LARGEST else None
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict) or content.get("version") != _VERSION:
        return {}, False
    stored = content.get("entries")
    if not isinstance(stored, dict):
        return {}, False
    entries = {key: entry for key, part in stored.items() if (entry := Entry.read(part)) is not None}
    return entries, len(entries) == len(stored)


def render(entries: Entries, wall: float) -> bytes:
    """Write a file, without what is over: only so many bindings are stored, the last written ones."""
    stored = {
        key: entry
        for key, entry in entries.items()
        if entry.refused or entry.pause.failures_at(wall) or (entry.token is not None and is_alive(entry.token, wall))
    }
    newest = sorted(stored, key=lambda key: stored[key].written)[-_MOST_ENTRIES:]
    content = {"version": _VERSION, "entries": {key: stored[key].content() for key in newest}}
    return json.dumps(content).encode()


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _LARGEST_NUMBER
