"""What goes wrong between us and Redis, in our own words: a server's or library's text may repeat a user or a key."""

from __future__ import annotations

import enum
import os
import socket
import ssl
from dataclasses import dataclass
from typing import Final

from proxy.session.stores.redis.connection import RedisError
from proxy.session.stores.redis.scripts import NotOurScript
from proxy.session.stores.redis.servers import NoMaster


class FailureKind(enum.Enum):
    """What follows from a failure."""

    #: Redis cannot be reached, or says that it is not ready. Tried again soon.
    DOWN = "down"
    #: Redis does not know us, or does not let us. Tried again seldom: nothing gets better by itself.
    DENIED = "denied"
    #: Redis answers, but nothing can be written. Everything else goes on.
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class RedisFailure:
    """What went wrong; `sentence` is for logs and operators, and holds nothing secret."""

    kind: FailureKind
    sentence: str


#: Rights on ~<prefix>* that all the scripts need; SELECT is for another database, ASKING for a cluster.
GRANTS: Final = "+evalsha +eval +time +hmget +hset +hdel +del +pttl +pexpire +select +asking"
#: What Redis calls its refusals (the first word of an error), and what is said of them.
_CODES: Final = {
    "LOADING": RedisFailure(FailureKind.DOWN, "Redis is still loading its data"),
    "MASTERDOWN": RedisFailure(FailureKind.DOWN, "this Redis is a replica that has lost its master"),
    "CLUSTERDOWN": RedisFailure(FailureKind.DOWN, "the Redis cluster is down"),
    "TRYAGAIN": RedisFailure(FailureKind.DOWN, "the Redis cluster is moving the keys"),
    "MOVED": RedisFailure(FailureKind.DOWN, "Redis sends us from one node to the next"),
    "ASK": RedisFailure(FailureKind.DOWN, "Redis sends us from one node to the next"),
    "NOSENTINEL": RedisFailure(FailureKind.DOWN, "what session.store names as a Sentinel is none"),
    "SENTINELNOAUTH": RedisFailure(
        FailureKind.DENIED, "a Sentinel wants a password; write it into session.store_sentinel_password or its file"
    ),
    "SENTINELWRONGPASS": RedisFailure(
        FailureKind.DENIED, "a Sentinel refuses the password in session.store_sentinel_password"
    ),
    "SENTINELNOPERM": RedisFailure(
        FailureKind.DENIED, "a Sentinel does not permit it; grant its default user +sentinel|get-master-addr-by-name"
    ),
    "READONLY": RedisFailure(FailureKind.DOWN, "this Redis is a read-only replica, and no master was found"),
    "BUSY": RedisFailure(FailureKind.DOWN, "Redis is busy with a script"),
    "UNKILLABLE": RedisFailure(FailureKind.DOWN, "Redis is busy with a script"),
    "MAXCLIENTS": RedisFailure(FailureKind.DOWN, "Redis has no connection left for us (maxclients)"),
    "NOAUTH": RedisFailure(FailureKind.DENIED, "Redis wants a password; write it into session.store or its file"),
    "WRONGPASS": RedisFailure(FailureKind.DENIED, "Redis refuses the user or password in session.store"),
    "DENIED": RedisFailure(FailureKind.DENIED, "Redis is in protected mode and serves its own machine only"),
    "NOPERM": RedisFailure(FailureKind.DENIED, f"Redis does not permit it; grant the user ~<prefix>* and {GRANTS}"),
    "NODB": RedisFailure(FailureKind.DENIED, "Redis has no database of this number (a cluster has 0 only)"),
    "OOM": RedisFailure(FailureKind.REFUSED, "Redis is out of memory (maxmemory); nothing can be written"),
    "MISCONF": RedisFailure(FailureKind.REFUSED, "Redis cannot write its snapshots (MISCONF); nothing can be written"),
    "NOREPLICAS": RedisFailure(
        FailureKind.REFUSED, "Redis has too few replicas (min-replicas-to-write); nothing can be written"
    ),
    "ERR": RedisFailure(FailureKind.DOWN, "Redis answers with an error that is not known"),
}
NO_ANSWER: Final = RedisFailure(FailureKind.DOWN, "Redis did not answer in time")
UNKNOWN_ANSWER: Final = RedisFailure(FailureKind.DOWN, "Redis answers the scripts with something that is not theirs")
NOT_A_REDIS: Final = RedisFailure(
    FailureKind.DOWN, "what answers is no Redis, or one with TLS where session.store has none"
)


def failure_of(error: Exception) -> RedisFailure:
    """Say what an answer of Redis, an exception of a socket or of TLS means."""
    match error:
        case RedisError(code=code):
            return _CODES.get(code or "ERR") or RedisFailure(FailureKind.DOWN, f"Redis answers {code}")
        case NoMaster():
            return RedisFailure(FailureKind.DOWN, "no Sentinel knows a master of this name that is up")
        case NotOurScript():
            return UNKNOWN_ANSWER
        case TimeoutError():
            return NO_ANSWER
        case ssl.SSLCertVerificationError():
            return RedisFailure(FailureKind.DOWN, f"the certificate of Redis is not accepted: {error.verify_message}")
        case ssl.SSLError():
            reason = (error.reason or "").replace("_", " ").lower()
            return RedisFailure(FailureKind.DOWN, f"TLS with Redis fails ({reason or 'no reason given'})")
        case socket.gaierror():
            return RedisFailure(FailureKind.DOWN, "the name of Redis cannot be resolved")
        case OSError() if error.errno:
            # Not its own text: asyncio puts the address there.
            return RedisFailure(FailureKind.DOWN, f"Redis cannot be reached: {os.strerror(error.errno)}")
        case OSError():
            return RedisFailure(FailureKind.DOWN, "the connection to Redis was closed or cannot be made")
        case _:
            return NOT_A_REDIS
