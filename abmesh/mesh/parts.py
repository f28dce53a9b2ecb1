"""Digests of what a rendering took from the document, so that an Envoy can be asked whether it is still right. Pure.

``abmesh render envoy`` puts them into Envoy's node metadata, and the controller compares them with those of today's
document. A part is left out of the metadata if the rendering's options leave it out of the bootstrap. Weights and all
else that only the server reads are in no part, except in the native lane.

Imports none of Envoy's messages, which would double a controller's memory.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from datetime import timedelta
from typing import Any, Final

import xxhash

from abmesh.experiment.metrics import CONTINUATION
from abmesh.experiment.model import Document, Experiment
from abmesh.experiment.request_headers import needed_headers, page_headers
from abmesh.mesh.lane import asks_server, obstacle
from abmesh.mesh.measured import kinds_of

FORM: Final = "v1"
"""Changes whenever these parts do; an Envoy with another form says nothing that can be compared."""

METADATA: Final = "abmesh"
"""Key of the node's metadata."""

IDLE: Final = timedelta(minutes=5)
"""Time limits beyond this one raise that of idle requests; a test compares it with :mod:`abmesh.mesh.edge`."""

_SHARED: Final = "shared_timeout"
"""Name of the part for the time limit of an experiment's route, where no warm-up listener has each variant's."""

_ORDER: Final = "order"
"""Name of the part for the order of an experiment's variants."""

EXPERIMENTS: Final = "experiments"
_OF_ROUTES: Final = ("default_cluster", "event_origins")
_NOT_ASKED: Final = frozenset({"cookie", "host", "origin", "content-type"})
"""Headers that a page cannot set, or may set always; see :mod:`abmesh.mesh.events`."""

_LETTERS: Final = str.maketrans("0123456789abcdef", "abcdefghijklmnop")

_Json = Any


def digests(document: Document) -> dict[str, str]:
    """The digest of every part, by its name: ``clusters``, or ``EXPERIMENT/match`` for a part of an experiment."""
    return {name: _digest(value) for name, value in _parts(document)}


def rendered(document: Document, *, routes_file: bool, warmup: bool) -> dict[str, str]:
    """The digests of the parts that a bootstrap depends on.

    Args:
        document: what it is rendered from.
        routes_file: whether Envoy reads its routes from a file.
        warmup: whether it has the warm-up listener.
    """
    found = digests(document)
    return {name: digest for name, digest in found.items() if _matters(document, name, routes_file, warmup)}


def _matters(document: Document, name: str, routes_file: bool, warmup: bool) -> bool:
    """Whether a bootstrap depends on a part."""
    experiment, separator, part = name.rpartition("/")
    if part == _ORDER:
        # Routes of events, and those of the warm-up listener, have one for each variant.
        return warmup or (not routes_file and any(_user_events(document.experiment(experiment))))
    if not separator:
        if routes_file:
            return name not in _OF_ROUTES and (warmup or name != EXPERIMENTS)
        return name != "scripts"
    if routes_file:
        return warmup and part in ("variants", "timeouts")
    return part != (_SHARED if warmup else "timeouts")


def node_metadata(found: Mapping[str, str]) -> dict[str, _Json]:
    """Envoy's node metadata for some digests."""
    return {METADATA: {"form": FORM, "parts": dict(found)}}


def read_metadata(metadata: _Json) -> dict[str, str] | None:
    """The digests in an Envoy's node metadata; None if it has none, or those of another form."""
    ours = metadata.get(METADATA) if isinstance(metadata, dict) else None
    if not isinstance(ours, dict) or ours.get("form") != FORM:
        return None
    parts = ours.get("parts")
    if not isinstance(parts, dict) or not all(isinstance(item, str) for pair in parts.items() for item in pair):
        return None
    return dict(parts)


def stale(found: Mapping[str, str], today: Mapping[str, str]) -> tuple[str, ...]:
    """Names of the parts of an Envoy that differ from today's document, sorted.

    An experiment that is gone or new is the part ``experiments``.

    Args:
        found: what the Envoy was rendered from.
        today: all digests of today's document.
    """
    known = {name.rpartition("/")[0] for name in today if "/" in name}
    changed = {
        name
        for name, digest in found.items()
        if today.get(name) != digest and ("/" not in name or name.rpartition("/")[0] in known)
    }
    # Other variants have another order, too.
    implied = {f"{name.rpartition('/')[0]}/{_ORDER}" for name in changed if name.endswith("/variants")}
    return tuple(sorted(changed - implied))


def _digest(value: _Json) -> str:
    # Letters only: a parser of YAML may take hexadecimal digits for a number.
    return xxhash.xxh64_hexdigest(json.dumps(value, sort_keys=True).encode())[:12].translate(_LETTERS)


def _parts(document: Document) -> Iterator[tuple[str, _Json]]:
    used = {variant.cluster for experiment in document.experiments for variant in experiment.variants}
    used |= {document.default_cluster} if document.default_cluster is not None else set()
    # In the document's order, as they are rendered.
    clusters = [(name, item.model_dump()) for name, item in (document.clusters or {}).items() if name in used]
    yield "clusters", clusters
    yield "default_cluster", document.default_cluster
    yield "event_origins", [document.event_origins, list(_page_headers(document)) if document.event_origins else []]
    yield "headers", needed_headers(document)
    yield "statistics", asdict(kinds_of(document))
    yield "scripts", list(dict.fromkeys(item.answers.model_dump_json() for item in document.experiments))
    yield EXPERIMENTS, [experiment.name for experiment in document.experiments]
    for experiment in document.experiments:
        for name, value in _of(experiment):
            yield f"{experiment.name}/{name}", value


def _page_headers(document: Document) -> Iterator[_Json]:
    """For each event, whether pages must send headers with it, and which of them a preflight asks about."""
    declared: dict[str, list[str]] = {}
    for experiment in document.experiments:
        for event in _user_events(experiment):
            declared.setdefault(event, []).extend(page_headers(experiment))
    for name, headers in declared.items():
        yield name, bool(headers), list(dict.fromkeys(header for header in headers if header not in _NOT_ASKED))


def _of(experiment: Experiment) -> Iterator[tuple[str, _Json]]:
    yield "match", experiment.match.model_dump()
    yield "variants", sorted((variant.name, variant.cluster, variant.control) for variant in experiment.variants)
    yield _ORDER, list(experiment.weights)
    limits = [variant.timeout.total_seconds() if variant.timeout else 0 for variant in experiment.variants]
    yield (
        "timeouts",
        sorted((variant.name, limit) for variant, limit in zip(experiment.variants, limits, strict=True) if limit),
    )
    control = experiment.control.timeout
    common = limits[0] if len(set(limits)) == 1 else None
    # Each variant's own limit comes from the server.
    yield _SHARED, [common, max(*limits, IDLE.total_seconds()), control and common is None and control.total_seconds()]
    yield "answers", experiment.answers.model_dump()
    yield "events", _user_events(experiment)
    yield "native", _native(experiment)


def _user_events(experiment: Experiment) -> list[str]:
    return [event.name for event in experiment.events if event.name != CONTINUATION]


def _native(experiment: Experiment) -> _Json:
    """What Envoy needs to assign an experiment's requests itself; nothing if the server does."""
    if experiment.lane != "native" or obstacle(experiment):
        return None
    return {
        # Not the value of a secret salt: anyone who reads Envoy's metadata could try guesses on the digest.
        "salt": [experiment.public_salt, experiment.secret_salt and experiment.secret_salt.label],
        "assignment": [experiment.slices, experiment.effective_ranges],
        "overrides": [item.model_dump() for item in experiment.overrides],
        "segments": experiment.segments and experiment.segments.model_dump(),
        "unit": [(source.label, asks_server(experiment, source)) for source in experiment.unit],
    }
