"""One answer to every message of a stream, whatever the transport.

A transport (:mod:`ext_proc.transport`) hands every message it receives to :meth:`Service.answer` and does what the
result says. Nothing here raises, waits or touches the network: whatever happens, the answer lets traffic flow on.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Final, NamedTuple

from abmesh.experiment.model import Document
from ext_proc import wire
from ext_proc.assignment import NO_CONFIG, Table, compile_document
from ext_proc.recent import Recent
from ext_proc.telemetry import Counts

log = logging.getLogger("ext_proc")


class Stream(Enum):
    """What to do with a stream instead of answering."""

    END = "end"
    """Close it without an error: Envoy goes on without us."""


END: Final = Stream.END


class Last(NamedTuple):
    """An answer after which the stream is to be closed, because nothing that may still come needs another one.

    Envoy would close it itself a moment later. That grpc.aio is waiting for a message by then costs it memory that it
    never gives back (https://github.com/grpc/grpc/issues/43360).
    """

    answer: bytes


Answer = bytes | Last | Stream | None
"""Bytes to send; :class:`Last`, to send its bytes and close the stream; ``None``, to send nothing; or :data:`END`."""

_QUIET_SECONDS = 10.0
_NOTHING_WANTED: frozenset[str] = frozenset()
_NO_CONFIG: Final = (NO_CONFIG.experiment, NO_CONFIG.variant, NO_CONFIG.reason)


_REMEMBERED: Final = 8_192
_LONGEST_REMEMBERED: Final = 1_024
"""At most 16,384 messages of 1,024 bytes: some 20 MB at worst, a third of that with usual ones."""

RequestKey = tuple[str, str, str]
"""What a request is counted by: experiment, variant and reason."""


@dataclass(frozen=True, slots=True)
class Rules:
    """A document in force: who gets what, and the answers that say so.

    Attributes:
        known: what messages that came not long ago were answered and counted by. A user's requests are mostly told
            to us in the very same bytes, and under one document they get the very same answer.
    """

    table: Table
    answers: wire.Answers
    known: Recent[bytes, tuple[bytes | Last, RequestKey]] = field(default_factory=lambda: Recent(_REMEMBERED))


def compile_rules(document: Document) -> Rules:
    """A document, ready for requests. Pure; takes about a millisecond per experiment."""
    return Rules(compile_document(document), wire.Answers(document))


def new_identity() -> str:
    """A random identity of 128 bits, in 32 hex digits."""
    return secrets.token_hex(16)


class Service:
    """Answers messages under the rules in force.

    Attributes:
        rules: replaced as a whole when the document changes; None until there has been a valid one.
        counts: what has been counted.
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

    def answer(self, message: bytes) -> Answer:
        """The answer to one message."""
        started = self._clock_ns()
        counts, rules = self.counts, self.rules
        short = len(message) <= _LONGEST_REMEMBERED
        if short and rules is not None and (known := rules.known.get(message)) is not None:
            answer: Answer
            answer, key = known
            counts.request(key)
            counts.message(wire.REQUEST_HEADERS)
            counts.duration(self._clock_ns() - started)
            return answer
        kind: wire.Kind = "undecodable"
        try:
            read = wire.read(message, _NOTHING_WANTED if rules is None else rules.table.needed)
            kind = read.kind
            answer = self._answer(message, read, rules)
        except Exception as error:  # noqa: BLE001  whatever we got wrong, the stream and its request must survive
            self._report("internal", _where(error))
            answer = wire.UNTOUCHED.get(kind, END)
        counts.message(kind)
        counts.duration(self._clock_ns() - started)
        return answer

    def _answer(self, message: bytes, read: wire.Message, rules: Rules | None) -> Answer:
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
            return Last(wire.UNTOUCHED[kind]) if read.decides else wire.UNTOUCHED[kind]
        assignment = rules.table.assign(read.headers, self._identities)
        text = rules.answers.write(assignment)
        answer = Last(text) if read.decides else text
        key = (assignment.experiment, assignment.variant, assignment.reason)
        if assignment.reason != "issued" and len(message) <= _LONGEST_REMEMBERED:
            rules.known.put(message, (answer, key))
        self.counts.request(key)
        return answer

    def _report(self, kind: str, detail: str) -> None:
        """Count an error, and log it unless one of its kind was logged a moment ago."""
        self.counts.error(kind)
        now = self._clock_ns()
        logged = self._logged.get(kind)
        if logged is not None and now - logged[0] < _QUIET_SECONDS * 1e9:
            self._logged[kind] = (logged[0], logged[1] + 1)
            return
        silent = logged[1] if logged is not None else 0
        self._logged[kind] = (now, 0)
        log.warning("message not answered as meant: %s%s (%d more since the last such line)", kind, detail, silent)


_ADVICE: Final = {
    "undecodable": ": not a ProcessingRequest; is something other than Envoy calling?",
    "unknown": ": of a kind that this version does not know; the stream was closed and Envoy goes on without us",
    "unsupported": ": set the filter's body modes to NONE; the stream was closed and Envoy goes on without us",
}


def _where(error: Exception) -> str:
    """An error's type and place, without its message, which may hold what a client sent."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = f" at {Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}" if trace is not None else ""
    return f": {type(error).__name__}{place}"
