"""Answers every message of a stream, whatever the transport.

A transport (:mod:`ext_proc.transport`) passes every message to :meth:`Service.answer` and carries out the result.
Nothing here raises, waits or touches the network: whatever goes wrong, the answer lets the request pass.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from typing import Final, NamedTuple

from abmesh.experiment.model import Document
from abmesh.text import error_place
from ext_proc import wire
from ext_proc.core.assignment import NEW_IDENTITY, NO_CONFIG
from ext_proc.core.recent import Recent
from ext_proc.core.table import Table, compile_document
from ext_proc.telemetry import Counts

log = logging.getLogger("ext_proc")


class StreamEnd(Enum):
    """What to do with a stream instead of sending an answer."""

    END = "end"
    """Close it without an error: Envoy continues without us."""


END: Final = StreamEnd.END


class Last(NamedTuple):
    """An answer after which to close the stream, because no later message needs another answer.

    Envoy would reset the stream a moment later. A grpc.aio server that waits for a message when that happens leaks
    memory (https://github.com/grpc/grpc/issues/43360).
    """

    answer: bytes


Answer = bytes | Last | StreamEnd | None
"""Bytes to send; :class:`Last` to send its bytes and close the stream; ``None`` to send nothing; or :data:`END`."""

_QUIET_SECONDS = 10.0
_NO_HEADERS: frozenset[str] = frozenset()
_NO_CONFIG: Final = (NO_CONFIG.experiment, NO_CONFIG.variant, NO_CONFIG.reason)

_CACHED: Final = 8_192
_LONGEST_CACHED: Final = 1_024
"""At most 16,384 messages of 1,024 bytes: about 20 MB at worst, a third of that with typical messages."""

RequestKey = tuple[str, str, str]
"""The labels that a request is counted under: experiment, variant and reason."""


@dataclass(frozen=True, slots=True)
class Rules:
    """A compiled document: the assignments, and their answers as bytes.

    Attributes:
        cached: answers and labels of recent messages, by what the route's choice was, if any. Envoy mostly sends a
            user's requests as identical bytes, which get an identical answer as long as the document stays the same.
    """

    table: Table
    answers: wire.Answers
    cached: Recent[bytes | tuple[bytes, bytes], tuple[bytes | Last, RequestKey]] = field(
        default_factory=lambda: Recent(_CACHED)
    )


def compile_rules(document: Document, before: Rules | None = None) -> Rules:
    """A document, ready for requests. Pure; takes about a millisecond per experiment that was not in force before."""
    return Rules(compile_document(document, None if before is None else before.table), wire.Answers(document))


def new_identity() -> str:
    """A random identity: 128 bits as 32 hex digits."""
    return secrets.token_hex(16)


class Service:
    """Answers messages under the document in force.

    Attributes:
        rules: replaced as a whole when the document changes; None before the first valid one.
        counts: where messages, requests and errors are counted.
    """

    def __init__(
        self,
        counts: Counts,
        identities: Callable[[], str] = new_identity,
        clock_ns: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        self.rules: Rules | None = None
        self.counts = counts
        self._identities = identities
        self._clock_ns = clock_ns
        self._logged: dict[str, tuple[int, int]] = {}

    def answer(self, message: bytes, choice: bytes = b"") -> Answer:
        """The answer to one message.

        Args:
            message: as it arrived.
            choice: the experiments of the request's route, by commas, as Envoy says them; empty: any.
        """
        started = self._clock_ns()
        counts, rules = self.counts, self.rules
        short = len(message) <= _LONGEST_CACHED
        remembered = (choice, message) if choice else message
        if short and rules is not None and (cached := rules.cached.get(remembered)) is not None:
            answer: Answer
            answer, key = cached
            counts.request(key)
            counts.message(wire.REQUEST_HEADERS)
            counts.duration(self._clock_ns() - started)
            return answer
        kind: wire.Kind = "undecodable"
        try:
            read = wire.read(message, _NO_HEADERS if rules is None else rules.table.needed)
            kind = read.kind
            answer = self._answer(remembered if short else None, read, rules, choice)
        except Exception as error:  # noqa: BLE001  a bug of ours must not cost the stream or its request
            self._report("internal", f": {error_place(error)}")
            answer = wire.UNTOUCHED.get(kind, END)
        counts.message(kind)
        counts.duration(self._clock_ns() - started)
        return answer

    def _answer(
        self, remembered: bytes | tuple[bytes, bytes] | None, read: wire.Message, rules: Rules | None, choice: bytes
    ) -> Answer:
        if not read.expects_answer:
            return None
        kind = read.kind
        if kind != wire.REQUEST_HEADERS:
            if kind in wire.ENDS_STREAM:
                self._report(kind, _ADVICE.get(kind, ""))
                return END
            return wire.UNTOUCHED[kind]
        if rules is None:
            self.counts.request(_NO_CONFIG)
            return Last(wire.UNCONFIGURED) if read.decides else wire.UNCONFIGURED
        assignment = rules.table.assign(read.headers, self._identities, _named(choice) if choice else None)
        text = rules.answers.write(assignment)
        answer = Last(text) if read.decides else text
        key = (assignment.experiment, assignment.variant, assignment.reason)
        if assignment.reason not in NEW_IDENTITY and remembered is not None:
            rules.cached.put(remembered, (answer, key))
        self.counts.request(key)
        return answer

    def _report(self, kind: str, detail: str) -> None:
        """Count an error, and log it unless one of its kind was logged in the last ten seconds."""
        self.counts.error(kind)
        now = self._clock_ns()
        logged = self._logged.get(kind)
        if logged is not None and now - logged[0] < _QUIET_SECONDS * 1e9:
            self._logged[kind] = (logged[0], logged[1] + 1)
            return
        silent = logged[1] if logged is not None else 0
        self._logged[kind] = (now, 0)
        log.warning("message not answered normally: %s%s (%d more since the last such line)", kind, detail, silent)


@lru_cache(1024)
def _named(choice: bytes) -> frozenset[str]:
    """The experiments that a route's choice names."""
    return frozenset(choice.decode("ascii", "replace").split(","))


_ADVICE: Final = {
    "undecodable": ": not a ProcessingRequest; is something other than Envoy calling?",
    "unknown": ": this version does not know its kind; the stream was closed and Envoy continues without us",
    "unsupported": ": set the filter's body modes to NONE; the stream was closed and Envoy continues without us",
}
