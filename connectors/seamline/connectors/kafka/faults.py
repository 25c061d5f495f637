"""What a Kafka error means to Seamline: fenced, refused, or worth another try.

Decides: which error codes are permanent, which pass while brokers come and go, and that a timeout
is reported with the cause that the client only told its `error_cb` (wrong SASL credentials show
nowhere else). Invariants: no code is both permanent and passing; nothing outside this package sees
a `KafkaException`; the causes kept are bounded. Must not know: what was being sent or read beyond
the words it is given.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException

from seamline.connectors.kafka.cluster import Cluster
from seamline.schemas.errors import SeamlineError, TransportError

CAUSES_KEPT: Final = 16
# A call that serves callbacks raises a fatal error of the client inside them, and where a delivery
# report follows in the same call Python makes a SystemError of it, with the fatal one as its cause.
RAISED: Final = (KafkaException, SystemError)

_FENCED: Final = frozenset(
    {KafkaError._FENCED, KafkaError.PRODUCER_FENCED, KafkaError.INVALID_PRODUCER_EPOCH}
)
# The client retries these for ever although no retry can help.
_REFUSALS: Final = frozenset(
    {
        KafkaError._AUTHENTICATION,
        KafkaError._SSL,
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError.UNSUPPORTED_SASL_MECHANISM,
    }
)
_PERMANENT: Final = _REFUSALS | {
    KafkaError._INVALID_ARG,
    KafkaError._STATE,
    KafkaError._UNKNOWN_PARTITION,
    KafkaError._UNKNOWN_TOPIC,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.INVALID_CONFIG,
    KafkaError.INVALID_MSG,
    KafkaError.INVALID_RECORD,
    KafkaError.INVALID_TRANSACTION_TIMEOUT,
    KafkaError.MSG_SIZE_TOO_LARGE,
    KafkaError.POLICY_VIOLATION,
    KafkaError.RECORD_LIST_TOO_LARGE,
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError.UNSUPPORTED_VERSION,
}
# The broker that was asked does not lead the partition now, or leads it and does not know yet how
# far it is committed, or is gone: the next one answers in a moment.
LEADER_MOVES: Final = frozenset(
    {
        KafkaError._TRANSPORT,
        KafkaError.BROKER_NOT_AVAILABLE,
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.KAFKA_STORAGE_ERROR,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.NETWORK_EXCEPTION,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.OFFSET_NOT_AVAILABLE,
        KafkaError.REPLICA_NOT_AVAILABLE,
        KafkaError.UNKNOWN_LEADER_EPOCH,
    }
)
# What a client meets while brokers end, start and elect, and gets over by itself. Whoever waits
# keeps a deadline of his own.
PASSING: Final = LEADER_MOVES | {
    KafkaError._ALL_BROKERS_DOWN,
    KafkaError._RESOLVE,
    KafkaError._TIMED_OUT,
    KafkaError._WAIT_COORD,
    KafkaError.CONCURRENT_TRANSACTIONS,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.NOT_CONTROLLER,
    KafkaError.NOT_COORDINATOR,
    KafkaError.NOT_ENOUGH_REPLICAS,
    KafkaError.NOT_ENOUGH_REPLICAS_AFTER_APPEND,
    KafkaError.PREFERRED_LEADER_NOT_AVAILABLE,
    KafkaError.REQUEST_TIMED_OUT,
}
_BROKERS: Final = "See which brokers run: seamline status; start what is missing: seamline up"
_DISK: Final = "A broker's disk failed or is full: make room, then start it: seamline up"
_FIXES: Final = {
    KafkaError._AUTHENTICATION: "Check SEAMLINE_KAFKA_SASL_* and the security protocol",
    KafkaError._SSL: "Check SEAMLINE_KAFKA_SSL_* and the security protocol",
    KafkaError._TIMED_OUT: "Check that the broker is up and reachable from here",
    KafkaError._TRANSPORT: "Check that the broker is up and reachable from here",
    KafkaError._ALL_BROKERS_DOWN: "Check that the broker is up and reachable from here",
    # A record that is given up names no cause: the client retried it until then.
    KafkaError._MSG_TIMED_OUT: _BROKERS,
    KafkaError.NOT_ENOUGH_REPLICAS: _BROKERS,
    KafkaError.NOT_ENOUGH_REPLICAS_AFTER_APPEND: _BROKERS,
    KafkaError.LEADER_NOT_AVAILABLE: _BROKERS,
    KafkaError.KAFKA_STORAGE_ERROR: _DISK,
    KafkaError.LOG_DIR_NOT_FOUND: _DISK,
    KafkaError.MSG_SIZE_TOO_LARGE: "Use a smaller block_rows, or raise max.message.bytes",
    KafkaError.UNKNOWN_TOPIC_OR_PART: "Run: seamline topics apply PRESET",
    KafkaError._UNKNOWN_TOPIC: "Run: seamline topics apply PRESET",
    KafkaError._UNKNOWN_PARTITION: "Run: seamline topics plan PRESET",
}


_MOVES: Final = frozenset(KafkaError(code).name() for code in LEADER_MOVES)

# librdkafka writes to stderr by itself unless a logger takes its lines.
_LOG: Final = logging.getLogger("seamline.kafka")
_LOG.addHandler(logging.NullHandler())


class FencedError(TransportError):
    """Another producer took the transactional id; the producer object is dead.

    Not retriable: whoever still owns the work makes a new producer and reads its position again.
    """

    retriable = False


class Causes:
    """The `error_cb` of one client: what it complained of, newest last."""

    def __init__(self) -> None:
        self._seen: deque[KafkaError] = deque(maxlen=CAUSES_KEPT)

    def __call__(self, error: KafkaError) -> None:
        self._seen.append(error)

    def clear(self) -> None:
        """What was said before a success explains nothing that comes after it."""
        self._seen.clear()

    def refusal(self) -> KafkaError | None:
        """The newest complaint that waiting cannot mend, or None."""
        return next((e for e in reversed(self._seen) if e.code() in _REFUSALS), None)

    def text(self) -> str | None:
        """The complaint that explains most: a refusal, else the newest that names a broker."""
        told = self.refusal() or next(
            (e for e in reversed(self._seen) if e.code() != KafkaError._ALL_BROKERS_DOWN),
            self._seen[-1] if self._seen else None,
        )
        return None if told is None else told.str()


def quiet_config(cluster: Cluster) -> dict[str, Any]:
    """Settings of a client that reports through `error_cb` and exceptions, not on stderr."""
    return {
        # The default of 10 s is how long everything would stand still after a broker is back.
        "reconnect.backoff.max.ms": 1_000,
        **cluster.client_config(),
        "log_level": 0,
        "logger": _LOG,
    }


def error_of(exception: BaseException) -> KafkaError:
    """The error inside; confluent_kafka always puts it first."""
    if isinstance(exception, SystemError) and isinstance(exception.__cause__, KafkaException):
        exception = exception.__cause__
    inner = exception.args[0] if exception.args else None
    if isinstance(inner, KafkaError):
        return inner
    return KafkaError(KafkaError._FAIL, str(exception))


def is_fenced(error: KafkaError) -> bool:
    return error.code() in _FENCED


def moved(error: SeamlineError) -> bool:
    """Whether an error raised here says that another broker has to be asked."""
    return error.fields.get("code") in _MOVES


def transport_error(
    error: KafkaError, *, doing: str, cluster: Cluster, causes: Causes | None = None
) -> TransportError:
    """`error` as the exception to raise, with the cause where the client told one.

    `fields` hold `code` (Kafka's name), `fatal` (the client object is dead) and `bootstrap`.
    """
    refusal = None if causes is None else causes.refusal()
    told = None if causes is None else causes.text()
    text = error.str() if told is None or told == error.str() else f"{error.str()}; {told}"
    named = refusal or error
    if is_fenced(error):
        return FencedError(
            f"{doing}: another producer took over ({error.str()})",
            fix="Make a new producer and read the position again",
            code=error.name(),
            fatal=True,
            bootstrap=cluster.bootstrap,
        )
    return TransportError(
        f"{doing} at {cluster.bootstrap}: {text}",
        fix=_FIXES.get(named.code()),
        retriable=named.code() not in _PERMANENT,
        code=named.name(),
        fatal=error.fatal(),
        bootstrap=cluster.bootstrap,
    )
