"""Who gets what: a request's headers and the compiled experiments, to an assignment. Pure.

:mod:`ext_proc.snapshot` compiles a document once; :mod:`ext_proc.service` calls :meth:`Table.assign` for every
request; :mod:`ext_proc.wire` turns the result into bytes. The only thing that is not a function of the arguments is a
new identity, which the caller supplies.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, NamedTuple

from abmesh.experiment import bucketing
from abmesh.experiment.bucketing import Place
from abmesh.experiment.model import Document, Experiment
from abmesh.experiment.names import OTHER_SEGMENT
from abmesh.experiment.request_headers import AUTHORITY, PATH, needed_headers
from ext_proc import events, identity
from ext_proc.identity import Headers
from ext_proc.origins import Origins, compile_origins

Reason = Literal[
    "override",
    "header",
    "cookie",
    "query",
    "issued",
    "no_unit",
    "unmatched",
    "no_config",
    "event",
    "event_no_unit",
    "event_wrong_origin",
    "event_wrong_value",
    "event_unmatched",
]
"""Why a request got what it got.

``header``, ``cookie`` and ``query`` say where its unit was found; ``issued`` that it got a new identity; ``override``
that headers decided. The rest are passed on untouched: ``no_unit`` and none to be issued, ``unmatched`` by every
experiment, ``no_config`` because no valid document has been seen yet.

Feedback events have reasons of their own: ``event`` may be counted; the others may not, for want of a unit, for a page
or a value that is not allowed, or because none of the experiments that declare the event is meant. An event that no
experiment declares is ``unmatched``.
"""


FEEDBACK: Final[frozenset[Reason]] = frozenset(
    {"event", "event_no_unit", "event_wrong_origin", "event_wrong_value", "event_unmatched"}
)
"""The reasons of feedback events that some experiment declares."""


class Assignment(NamedTuple):
    """What a request gets.

    Attributes:
        experiment: the experiment's name; empty if none matches.
        variant: the variant's name; empty if the request is passed on untouched.
        slice: the slice of the variant's users, None for overrides, which are not evidence.
        group: the group of slices, None likewise.
        segment: a declared segment or ``other``; None where no segments are declared.
        set_cookie: the Set-Cookie value that carries a new identity, or marks a session as continued; None if there
            is nothing to say.
        in_session: whether the unit is an issued identity, that of a session.
        continued: whether this is the second request of a session.
        event: the name of the feedback event that may be counted; None for all other requests.
        value: what it carries, in thousandths; None if it carries none.
    """

    reason: Reason
    experiment: str = ""
    variant: str = ""
    slice: int | None = None
    group: int | None = None
    segment: str | None = None
    set_cookie: str | None = None
    in_session: bool = False
    continued: bool = False
    event: str | None = None
    value: int | None = None


UNMATCHED = Assignment("unmatched")
NO_CONFIG = Assignment("no_config")

HeaderRules = tuple[tuple[str, bytes], ...]


@dataclass(frozen=True, slots=True)
class Segments:
    """Where a user's segment is written, and the values that count."""

    header: str
    names: Mapping[bytes, str]

    def of(self, headers: Headers) -> str:
        """The declared segment of a request, or ``other``."""
        value = joined(headers, self.header)
        return OTHER_SEGMENT if value is None else self.names.get(value, OTHER_SEGMENT)


@dataclass(frozen=True, slots=True)
class Compiled:
    """One experiment, ready for requests.

    Attributes:
        overrides: header rules and variant, the first whose headers all match decides.
        starts: first buckets of the runs that share a place, ascending from 0.
        places: the place of each run.
        untouched: the assignment of requests that have no unit and get none.
        session: the one of the sources that is the issued cookie, which is what a session is; None where none is.
        continuation: tells the second request of a session; None where that is no event.
    """

    name: str
    salt: str
    path_prefix: bytes
    host: bytes | None
    headers: HeaderRules
    overrides: tuple[tuple[HeaderRules, str], ...]
    sources: tuple[identity.Source, ...]
    cookie: identity.CookieForm | None
    segments: Segments | None
    starts: tuple[int, ...]
    places: tuple[Place, ...]
    untouched: Assignment
    session: identity.Source | None
    continuation: identity.Continuation | None

    def place(self, unit: bytes) -> Place:
        """Variant, slice and group of a unit."""
        return self.places[bisect_right(self.starts, bucketing.bucket_of(self.salt, unit)) - 1]

    def assign(self, headers: Headers, new_identity: Callable[[], str]) -> Assignment:
        """What a request of this experiment gets."""
        segment = self.segments.of(headers) if self.segments is not None else None
        for rules, variant in self.overrides:
            if holds(rules, headers):
                return Assignment("override", self.name, variant, segment=segment)
        found = identity.find_unit(self.sources, headers)
        if found is not None:
            source, unit = found
            place = self.place(unit)
            mark = None if self.continuation is None else self.continuation.mark(found, headers)
            return Assignment(
                source.kind,
                self.name,
                place.variant,
                place.slice,
                place.group,
                segment,
                mark,
                source is self.session,
                mark is not None,
            )
        if self.cookie is None:
            return self.untouched
        fresh = new_identity()
        place = self.place(fresh.encode())
        set_cookie = self.cookie.write(fresh, headers)
        return Assignment("issued", self.name, place.variant, place.slice, place.group, segment, set_cookie, True)

    def is_for(self, headers: Headers) -> bool:
        """Whether the host and the headers are those of this experiment; the path is not asked."""
        return (self.host is None or self.host == host_of(headers)) and holds(self.headers, headers)


class Declaration(NamedTuple):
    """An event, and the experiment that declares it, as it is to its events: they get no cookies."""

    experiment: Compiled
    event: events.Declared


@dataclass(frozen=True, slots=True)
class Table:
    """All experiments of a document, in its order.

    Attributes:
        declared: by an event's name, the experiments that declare it, in order.
        origins: of the pages whose events may be counted.
        needed: names of the only headers that :meth:`assign` looks at.
    """

    experiments: tuple[Compiled, ...]
    declared: Mapping[bytes, tuple[Declaration, ...]]
    origins: Origins
    needed: frozenset[str]

    def assign(self, headers: Headers, new_identity: Callable[[], str]) -> Assignment:
        """What a request gets.

        Args:
            headers: of the request.
            new_identity: makes a random identity; called at most once, and only for a request that gets a cookie.
        """
        path = identity.path_of(headers[PATH][0]) if PATH in headers else b""
        if path.startswith(events.PREFIX):
            return self._feedback(path.removeprefix(events.PREFIX), headers, new_identity)
        for experiment in self.experiments:
            if path.startswith(experiment.path_prefix) and experiment.is_for(headers):
                return experiment.assign(headers, new_identity)
        return UNMATCHED

    def _feedback(self, name: bytes, headers: Headers, new_identity: Callable[[], str]) -> Assignment:
        """What a feedback event gets, from the experiment that it names or else from the first that it fits.

        An event that is declared, but by none of those, still learns of one that declares it: so that Envoy can tell
        a wrong request (400) from a server that is down (503).
        """
        declarations = self.declared.get(name)
        if declarations is None:
            return UNMATCHED
        value, named = events.asked(headers[PATH][0])
        for experiment, event in declarations:
            if experiment.is_for(headers) if named is None else experiment.name.encode() == named:
                if not self.origins.allow(headers):
                    # Nobody's unit is looked for: a page that may not send events learns nothing of its visitor.
                    return Assignment("event_wrong_origin", experiment.name)
                known = experiment.assign(headers, new_identity)
                return _counted(known, event, value) if known.variant else known
        return Assignment("event_unmatched", declarations[0].experiment.name)


def _counted(known: Assignment, event: events.Declared, value: bytes | None) -> Assignment:
    """The assignment of an event whose sender is known: with its name if it may be counted."""
    reading = event.read(value)
    if not reading.allowed:
        return known._replace(reason="event_wrong_value")
    return known._replace(reason="event", event=event.name, value=reading.thousandths)


def compile_document(document: Document) -> Table:
    """A document, ready for requests. Takes about a millisecond per experiment."""
    needed = frozenset((*needed_headers(document), identity.SCHEME))
    experiments = tuple(map(_compile, document.experiments))
    declared: dict[bytes, tuple[Declaration, ...]] = {}
    for experiment, compiled in zip(document.experiments, experiments, strict=True):
        # To its events an experiment gives no cookies.
        quiet = replace(
            compiled, cookie=None, continuation=None, untouched=Assignment("event_no_unit", experiment.name)
        )
        for name, event in events.compile_events(experiment).items():
            declared[name] = (*declared.get(name, ()), Declaration(quiet, event))
    return Table(experiments, declared, compile_origins(document), needed)


def _compile(experiment: Experiment) -> Compiled:
    # Not experiment.places, which would keep its 10,000 entries for as long as the document is in force.
    runs = bucketing.runs(experiment.effective_ranges, experiment.slices)
    segments = experiment.segments
    host = experiment.match.host
    cookie = experiment.issue_cookie
    sources = identity.compile_sources(experiment.unit)
    return Compiled(
        name=experiment.name,
        salt=experiment.hash_salt,
        path_prefix=experiment.match.path_prefix.encode(),
        host=None if host is None else host.encode(),
        headers=_rules(experiment.match.headers),
        overrides=tuple((_rules(override.header), override.variant) for override in experiment.overrides),
        sources=sources,
        cookie=None if cookie is None else identity.compile_cookie(cookie),
        segments=None
        if segments is None
        else Segments(segments.header, {value.encode(): value for value in segments.values}),
        starts=tuple(run.start for run in runs),
        places=tuple(run.place for run in runs),
        untouched=Assignment("no_unit", experiment.name),
        session=next((source for source in sources if cookie and source == identity.session_source(cookie)), None),
        continuation=identity.compile_continuation(cookie) if cookie and experiment.counts_continuation else None,
    )


def _rules(headers: Mapping[str, str]) -> HeaderRules:
    return tuple((name, value.encode()) for name, value in headers.items())


def holds(rules: HeaderRules, headers: Headers) -> bool:
    """Whether every header has exactly the value that its rule asks for."""
    for name, value in rules:  # noqa: SIM110  a generator would cost more than the whole loop, on every request
        if joined(headers, name) != value:
            return False
    return True


def joined(headers: Headers, name: str) -> bytes | None:
    """A header's value, repeated ones joined with commas as HTTP reads them; None if it is absent."""
    values: Sequence[bytes] | None = headers.get(name)
    if values is None:
        return None
    return values[0] if len(values) == 1 else b",".join(values)


def host_of(headers: Headers) -> bytes:
    """The host that a request is for, in lower case and without its port; empty if it names none."""
    if AUTHORITY not in headers:
        return b""
    authority = headers[AUTHORITY][0].lower()
    host, colon, port = authority.rpartition(b":")
    # The colons inside an IPv6 address belong to the host.
    return host if colon and not port.endswith(b"]") else authority
