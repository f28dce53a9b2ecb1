"""What abmesh puts into somebody's own Envoy, made by the modules that render a whole bootstrap. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

from betterproto2 import Casing, Message
from envoy_data_plane.envoy.config.common.mutation_rules.v3 import HeaderMutation, HeaderMutationRemoveOnMatch
from envoy_data_plane.envoy.config.core.v3 import TypedExtensionConfig
from envoy_data_plane.envoy.config.route.v3 import WeightedCluster, WeightedClusterClusterWeight
from envoy_data_plane.envoy.extensions.http.early_header_mutation.header_mutation.v3 import (
    HeaderMutation as EarlyHeaderMutation,
)
from envoy_data_plane.envoy.type.matcher.v3 import RegexMatcher, StringMatcher
from envoy_data_plane.google.protobuf import Any as PackedAny

from abmesh.experiment import metrics, names
from abmesh.experiment.errors import RenderError
from abmesh.experiment.model import Document, Experiment
from abmesh.mesh import edge, parts
from abmesh.mesh.answers import reads_no_answers
from abmesh.mesh.buckets import stats_config
from abmesh.mesh.clusters import ext_proc_cluster, model_clusters
from abmesh.mesh.events import event_routes
from abmesh.mesh.ext_proc_filter import asks_server
from abmesh.mesh.filters import STRIP
from abmesh.mesh.listener import our_filters
from abmesh.mesh.measured import kinds_of
from abmesh.mesh.merge.add_clusters import ADDED
from abmesh.mesh.merge.check import Destination
from abmesh.mesh.merge.into import Take
from abmesh.mesh.merge.pieces import Json, Pieces, Takeover, Unassigned
from abmesh.mesh.options import RenderOptions
from abmesh.mesh.places import own_destination, variant_entries, weighted_clusters
from abmesh.mesh.statistics import loggers
from abmesh.mesh.variants import issued_cookie
from abmesh.mesh.warmup import warmup_listener

STRIPPED: Final = (
    ("experiment", "slice", "group", "segment", "place", "route", "reason", "id"),
    ("unassigned", "event", "value", "issued", "continued", "counted"),
    ("mirror", "shadow", "nowhere", "warmup"),
)
"""Ends of the names that clients may not send. One pattern of all would be larger than Envoy allows.

Only our own names: other hosts of this Envoy may have an ``x-ab-`` of theirs. ``x-model-version`` is overwritten or
removed wherever it matters.
"""

_LEFT_OUT: Final = ("default_cluster", "/native", "/shared_timeout")
"""Parts of the document that a merged Envoy does not depend on."""


def pieces(document: Document, options: RenderOptions) -> Pieces:
    """What the whole Envoy gets.

    Raises:
        RenderError: the document lacks something that Envoy needs.
    """
    document = document.model_copy(update={"default_cluster": None})
    server = ext_proc_cluster(options.ext_proc_targets, options.streams_per_connection, options.ext_proc_tls)
    models = model_clusters(document) if document.clusters is not None else []
    warmup = options.warmup_endpoint
    found = parts.rendered(document, routes_file=False, warmup=warmup is not None)
    depends_on = {name: digest for name, digest in found.items() if not name.endswith(_LEFT_OUT)}
    buckets: list[Json] = _json(stats_config())["histogram_bucket_settings"]
    return Pieces(
        http_filters=[_json(item) for item in our_filters(document, options)],
        early_header_mutations=[_json(strip_forged_headers())],
        max_headers=edge.MAX_HEADERS,
        reply_mappers=_json(edge.too_many_headers())["mappers"],
        access_log=[_json(item) for item in loggers(kinds_of(document))],
        histogram_buckets=buckets,
        first_routes=list(_event_routes(document)),
        clusters=[_json(cluster) for cluster in (*models, server)],
        listeners=[] if warmup is None else [_json(warmup_listener(document, warmup))],
        node_metadata=parts.node_metadata(depends_on)[parts.METADATA],
    )


def takeover(document: Document) -> Take:
    """How routes are taken over for a document.

    Requests without an assignment go, if nobody has chosen, to the route's own destination, or to the control if that
    is several clusters.
    """

    def take(
        route: str, own: Destination, experiments: list[Experiment], unassigned: Unassigned | None = None
    ) -> Takeover:
        entries = _entries(document, experiments, route)
        chosen = unassigned or (Unassigned.CONTROL if len(own.shares) > 1 else Unassigned.ROUTE)
        shares = own.shares if chosen is Unassigned.ROUTE else _control(experiments, route)
        gap = own_destination(shares[0][0], route)
        made = weighted_clusters(entries, gap)
        places = {id(entry) for entry in entries.values()}
        made = WeightedCluster(header_name=made.header_name, clusters=list(_split(made.clusters, places, shares)))
        return Takeover(
            weighted_clusters=_json(made),
            typed_per_filter_config={key: _json(value) for key, value in (asks_server() | reads_no_answers()).items()},
            # Nothing without one, and there when an experiment begins to issue one: the server does so at once.
            response_headers_to_add=[_json(issued_cookie())],
        )

    return take


def _entries(document: Document, experiments: list[Experiment], route: str) -> dict[int, WeightedClusterClusterWeight]:
    entries: dict[int, WeightedClusterClusterWeight] = {}
    for experiment in experiments:
        of_one = variant_entries(document, experiment, route)
        if entries.keys() & of_one.keys():
            raise RenderError(
                f"two variants would share a position on the route {route!r}, one of them of {experiment.name!r}; "
                f"rename that one"
            )
        entries |= of_one
    return entries


def _control(experiments: list[Experiment], route: str) -> tuple[tuple[str, int], ...]:
    controls = list(dict.fromkeys(experiment.control.cluster for experiment in experiments))
    if len(controls) > 1:
        raise RenderError(
            f"the experiments on the route {route!r} have controls on different clusters, {', '.join(controls)}, so "
            f"abmesh cannot tell where requests without an assignment go; choose --unassigned route"
        )
    return ((controls[0], 1),)


def _split(
    clusters: list[WeightedClusterClusterWeight], places: set[int], shares: tuple[tuple[str, int], ...]
) -> Iterator[WeightedClusterClusterWeight]:
    """Every gap between places, shared out as the route's own destination was."""
    total = sum(share for _, share in shares)
    for entry in clusters:
        if id(entry) in places:
            yield entry
            continue
        left = entry.weight or 0
        for name, share in reversed(shares[1:]):
            part = (entry.weight or 0) * share // total
            left -= part
            if part:
                yield replace(entry, name=name, weight=part)
        if left:
            yield replace(entry, name=shares[0][0], weight=left)


def _event_routes(document: Document) -> Iterator[Json]:
    """Routes for events, if there are events; marked, so that they can be found again."""
    events = {event.name for experiment in document.experiments for event in experiment.events}
    if events - {metrics.CONTINUATION}:
        for route in event_routes(document):
            yield _json(route) | {"metadata": ADDED}


def strip_forged_headers() -> TypedExtensionConfig:
    """Removes our headers from what clients send, and no others with our prefix."""
    mutations = []
    for ends in STRIPPED:
        pattern = f"{names.TRUSTED_PREFIX.replace('-', '[-_]')}({'|'.join(ends)})"
        forged = StringMatcher(safe_regex=RegexMatcher(regex=pattern))
        mutations.append(HeaderMutation(remove_on_match=HeaderMutationRemoveOnMatch(key_matcher=forged)))
    return TypedExtensionConfig(name=STRIP, typed_config=PackedAny.pack(EarlyHeaderMutation(mutations=mutations)))


def _json(message: Message) -> dict[str, Any]:
    return message.to_dict(casing=Casing.SNAKE)
