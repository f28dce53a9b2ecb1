"""All experiments of a document: finds the one that a request belongs to, and assigns the request. Pure.

:mod:`ext_proc.snapshot` compiles each new document once; :mod:`ext_proc.service` calls :meth:`Table.assign` for every
request.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from abmesh.experiment.model import Document, Experiment
from abmesh.experiment.request_headers import PATH, needed_headers
from ext_proc.core import events
from ext_proc.core.assignment import UNMATCHED, Assignment
from ext_proc.core.experiment import CompiledExperiment, compile_experiment
from ext_proc.core.headers import SCHEME, Headers, path_of
from ext_proc.core.origins import Origins, compile_origins


class Declaration(NamedTuple):
    """An event, and an experiment that declares it, in the form that its events use: it sets no cookies."""

    experiment: CompiledExperiment
    event: events.DeclaredEvent


@dataclass(frozen=True, slots=True)
class Table:
    """All experiments of a document, in its order.

    Attributes:
        declared: the declarations of each event, by its name, in the document's order.
        origins: the sites whose pages may send events.
        needed: the names of all headers that :meth:`assign` reads.
        sources: what the experiments were compiled from, in the same order.
    """

    experiments: tuple[CompiledExperiment, ...]
    declared: Mapping[bytes, tuple[Declaration, ...]]
    origins: Origins
    needed: frozenset[str]
    sources: tuple[Experiment, ...] = field(repr=False)

    def assign(
        self, headers: Headers, new_identity: Callable[[], str], among: Container[str] | None = None
    ) -> Assignment:
        """Assign a request.

        Args:
            headers: of the request.
            new_identity: makes a random identity; called at most once, and only for a request that gets a cookie.
            among: names of the experiments of the request's route; None: any.
        """
        path = path_of(headers[PATH][0]) if PATH in headers else b""
        if path.startswith(events.PREFIX):
            return self._feedback(path.removeprefix(events.PREFIX), headers, new_identity, among)
        for experiment in self.experiments:
            if among is not None and experiment.name not in among:
                continue
            if path.startswith(experiment.path_prefix) and experiment.matches_host_and_headers(headers):
                return experiment.assign(headers, new_identity)
        return UNMATCHED

    def _feedback(
        self, name: bytes, headers: Headers, new_identity: Callable[[], str], among: Container[str] | None
    ) -> Assignment:
        """Assign a feedback event: to the experiment that it names, or else to the first that it matches.

        An event that matches no declaration gets the first experiment that declares it, so that Envoy can tell a bad
        request (400) from a server that is down (503).
        """
        declarations = self.declared.get(name, ())
        if among is not None:
            declarations = tuple(found for found in declarations if found.experiment.name in among)
        if not declarations:
            return UNMATCHED
        value, named = events.read_query(headers[PATH][0])
        for experiment, event in declarations:
            applies = (
                experiment.matches_host_and_headers(headers) if named is None else experiment.name.encode() == named
            )
            if applies:
                if not self.origins.allow(headers):
                    # Before the unit is looked for: a page that may not send events learns nothing about its visitor.
                    return Assignment("event_wrong_origin", experiment.name)
                known = experiment.assign(headers, new_identity)
                return _checked(known, event, value) if known.variant else known
        return Assignment("event_unmatched", declarations[0].experiment.name)


def _checked(known: Assignment, event: events.DeclaredEvent, value: bytes | None) -> Assignment:
    """The assignment of an event whose unit is known, once its value has been checked."""
    checked = event.check(value)
    if not checked.allowed:
        return known._replace(reason="event_wrong_value")
    return known._replace(reason="event", event=event.name, value=checked.thousandths)


def compile_document(document: Document, before: Table | None = None) -> Table:
    """A document, ready for requests. Takes about a millisecond per experiment that is not the same object as before.

    Args:
        document: to compile.
        before: the last result, whose experiments are used again where theirs have not changed.
    """
    needed = frozenset((*needed_headers(document), SCHEME))
    known = {} if before is None else dict(zip(map(id, before.sources), before.experiments, strict=True))
    experiments = tuple(known.get(id(item)) or compile_experiment(item) for item in document.experiments)
    declared: dict[bytes, tuple[Declaration, ...]] = {}
    for experiment, compiled in zip(document.experiments, experiments, strict=True):
        # An event never gets a cookie.
        without_cookies = replace(
            compiled,
            cookie=None,
            continuation=None,
            no_unit=Assignment("event_no_unit", experiment.name),
            forged=Assignment("event_forged_cookie", experiment.name),
        )
        for name, event in events.compile_events(experiment).items():
            declared[name] = (*declared.get(name, ()), Declaration(without_cookies, event))
    return Table(experiments, declared, compile_origins(document), needed, document.experiments)
