"""One compiled experiment: assigns the requests that it matches. Pure.

:mod:`ext_proc.core.table` compiles experiments and calls :meth:`CompiledExperiment.assign`. Its result depends on
nothing but its arguments; the caller supplies new identities.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from abmesh.experiment import bucketing
from abmesh.experiment.bucketing import Cell
from abmesh.experiment.model import Experiment
from abmesh.experiment.names import OTHER_SEGMENT
from ext_proc.core import identity
from ext_proc.core.assignment import Assignment, Reason
from ext_proc.core.headers import HeaderRules, Headers, compile_rules, host_of, joined, matches


@dataclass(frozen=True, slots=True)
class Segments:
    """The header that carries a user's segment, and the values that are declared."""

    header: str
    names: Mapping[bytes, str]

    def of(self, headers: Headers) -> str:
        """The declared segment of a request, or ``other``."""
        value = joined(headers, self.header)
        return OTHER_SEGMENT if value is None else self.names.get(value, OTHER_SEGMENT)


@dataclass(frozen=True, slots=True)
class CompiledExperiment:
    """One experiment, ready for requests.

    Attributes:
        overrides: header rules with a variant; the first whose headers all match decides.
        starts: first buckets of the runs that share a cell, ascending from 0.
        cells: the cell of each run.
        no_unit: the assignment of requests that have no unit and get none.
        forged: the same for requests whose cookie is not authentic.
        session: the source that reads the issued cookie; None if there is none.
        continuation: recognises the second request of a session; None if ``continuation`` is not a declared event.
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
    cells: tuple[Cell, ...]
    no_unit: Assignment
    forged: Assignment
    session: identity.Source | None
    continuation: identity.Continuation | None

    def cell(self, unit: bytes) -> Cell:
        """Variant, slice and group of a unit."""
        return self.cells[bisect_right(self.starts, bucketing.bucket_of(self.salt, unit)) - 1]

    def assign(self, headers: Headers, new_identity: Callable[[], str]) -> Assignment:
        """Assign a request that matches this experiment."""
        segment = self.segments.of(headers) if self.segments is not None else None
        for rules, variant in self.overrides:
            if matches(rules, headers):
                return Assignment("override", self.name, variant, segment=segment)
        found = identity.find_unit(self.sources, headers)
        if found is not None:
            source, unit = found
            cell = self.cell(unit)
            marker = None if self.continuation is None else self.continuation.marker_cookie(found, headers)
            return Assignment(
                source.kind,
                self.name,
                cell.variant,
                cell.slice,
                cell.group,
                segment,
                marker,
                source is self.session,
                marker is not None,
            )
        forged = identity.is_forged(self.session, headers)
        if self.cookie is None:
            return self.forged if forged else self.no_unit
        fresh = new_identity()
        cell = self.cell(fresh.encode())
        set_cookie = self.cookie.write(fresh, headers)
        reason: Reason = "reissued" if forged else "issued"
        return Assignment(reason, self.name, cell.variant, cell.slice, cell.group, segment, set_cookie, True)

    def matches_host_and_headers(self, headers: Headers) -> bool:
        """Whether host and headers match; the path is not looked at."""
        return (self.host is None or self.host == host_of(headers)) and matches(self.headers, headers)


def compile_experiment(experiment: Experiment) -> CompiledExperiment:
    """An experiment, ready for requests. Takes about a millisecond."""
    # Not experiment.cells, which would keep its 10,000 entries for as long as the document is in force.
    runs = bucketing.runs(experiment.effective_ranges, experiment.slices)
    segments = experiment.segments
    host = experiment.match.host
    cookie = experiment.issue_cookie
    sources = identity.compile_sources(experiment.unit, cookie)
    return CompiledExperiment(
        name=experiment.name,
        salt=experiment.hash_salt,
        path_prefix=experiment.match.path_prefix.encode(),
        host=None if host is None else host.encode(),
        headers=compile_rules(experiment.match.headers),
        overrides=tuple((compile_rules(override.header), override.variant) for override in experiment.overrides),
        sources=sources,
        cookie=None if cookie is None else identity.compile_cookie(cookie),
        segments=None
        if segments is None
        else Segments(segments.header, {value.encode(): value for value in segments.values}),
        starts=tuple(run.start for run in runs),
        cells=tuple(run.cell for run in runs),
        no_unit=Assignment("no_unit", experiment.name),
        forged=Assignment("no_unit", experiment.name),
        session=next((source for source in sources if cookie and source == identity.session_source(cookie)), None),
        continuation=identity.compile_continuation(cookie) if cookie and experiment.counts_continuation else None,
    )
