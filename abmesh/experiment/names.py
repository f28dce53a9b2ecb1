"""Names that several parts of abmesh must agree on, each defined once. Pure.

Headers are in lower case, as in HTTP/2 and Envoy.
"""

from __future__ import annotations

from typing import Final

MODEL_VERSION: Final = "x-model-version"
"""The variant's name: a request header that Envoy routes on, and a response header that clients see."""

TRUSTED_PREFIX: Final = "x-ab-"
"""Envoy strips every header with this prefix from client requests before anything else."""

ENVOY_PREFIX: Final = "x-envoy-"
"""Prefix of Envoy's own headers, which it also strips from client requests."""

EXPERIMENT: Final = "x-ab-experiment"
SLICE: Final = "x-ab-slice"
GROUP: Final = "x-ab-group"
SEGMENT: Final = "x-ab-segment"

ISSUED: Final = "x-ab-issued"
"""Set on requests that were given a new identity, which begin a session, and on events of a session.

One header for both, since a longer expression of the names that the server may set is more than Envoy allows.
"""

CONTINUED: Final = "x-ab-continued"
"""Set on the second request of a session, if ``continuation`` is an event."""

PLACE: Final = "x-ab-place"
"""The position of the variant among a route's weighted clusters; see :mod:`abmesh.experiment.places`."""

REASON: Final = "x-ab-reason"
"""Why a request has its assignment, or none; every answer of the server has it. A bounded set of words."""

ROUTE: Final = "x-ab-route"
"""Set by Envoy on requests that reached a variant: the mark of evidence."""

UNASSIGNED: Final = "x-ab-unassigned"
"""Set by Envoy on requests of an experiment's route that reached no variant: the route's name."""

EVENT: Final = "x-ab-event"
"""Set on a feedback event that may be counted: the event's name."""

EVENT_VALUE: Final = "x-ab-value"
"""Set on a feedback event with a value: the value in thousandths."""

COUNTED: Final = "x-ab-counted"
"""Set by Envoy on a feedback event that counts: the event's name, as the route knows it."""

SET_BY_SERVER: Final = (
    MODEL_VERSION,
    EXPERIMENT,
    SLICE,
    GROUP,
    SEGMENT,
    PLACE,
    REASON,
    ISSUED,
    CONTINUED,
    EVENT,
    EVENT_VALUE,
)
"""The headers of an assignment, which only our server sets, or a native route in its stead."""

SET_BY_ENVOY: Final = (ROUTE, UNASSIGNED, COUNTED)
"""The headers by which Envoy remembers where a request went; not even the server may set them."""

NOWHERE: Final = "x-ab-nowhere"
"""A header that never exists: it is stripped from what clients send, and nobody sets it."""

CHOICE: Final = "x-abmesh-experiments"
"""Metadata of the gRPC stream on which Envoy asks the server: the experiments of the request's route, by commas."""

EVENTS_PATH: Final = "/_ab/events/"
"""Feedback events are sent to this path, followed by the event's name."""

VALUE_PARAMETER: Final = "value"
"""Query parameter that carries an event's value."""

EXPERIMENT_PARAMETER: Final = "experiment"
"""Query parameter that names an event's experiment, needed if several declare the event."""

CONTINUED_ENDING: Final = "-continued"
"""A continued session has a second cookie: the issued cookie's name with this ending."""

UPSTREAM_TIMEOUT: Final = "x-envoy-upstream-rq-timeout-ms"
"""Envoy's own header for a request's total time limit, in milliseconds."""

FORWARDED_PROTO: Final = "x-forwarded-proto"
"""Envoy's own header for the scheme that the client used."""

METADATA_NAMESPACE: Final = "abmesh"
METADATA_SET_COOKIE: Final = "set_cookie"
METADATA_ANSWERED: Final = "answered"
METADATA_CACHED: Final = "cached"
METADATA_INPUT: Final = "input_tokens"
METADATA_OUTPUT: Final = "output_tokens"
METADATA_STREAMED: Final = "streamed_tokens"
METADATA_REFUSED: Final = "refused"

OTHER_SEGMENT: Final = "other"
"""The segment of users whose segment header has no declared value."""

BUCKETS: Final = 10_000
"""Size of bucket space; one bucket is one basis point (0.01%) of the users."""

GROUPS: Final = 10
"""Number of groups of slices; histograms, and whatever is counted by segment, are tagged with the group."""

STATS_SCOPE: Final = "abmesh"
STAT_REQUESTS: Final = "requests"
STAT_DURATION: Final = "duration"
STAT_TTFT: Final = "ttft"
STAT_FAILED: Final = "failed_duration"
"""Those of :data:`STAT_DURATION` that belong to failed answers."""
STAT_UNASSIGNED: Final = "unassigned"
BY_SEGMENT: Final = "_by_segment"
"""Ending of a statistic that is tagged with a segment and a group instead of a slice."""
TAG_EXPERIMENT: Final = "experiment"
TAG_VARIANT: Final = "variant"
TAG_SLICE: Final = "slice"
TAG_GROUP: Final = "group"
TAG_CODE: Final = "code"
TAG_ROUTE: Final = "route"
TAG_REASON: Final = "reason"
TAG_EVENT: Final = "event"
TAG_SEGMENT: Final = "segment"

EXT_PROC_CLUSTER: Final = "abmesh-ext-proc"

ENV_CONFIG: Final = "ABMESH_CONFIG"
ENV_STATE: Final = "ABMESH_STATE"
ENV_KUBERNETES: Final = "ABMESH_KUBERNETES"
ENV_NAMESPACE: Final = "ABMESH_NAMESPACE"
ENV_TRANSPORT: Final = "ABMESH_TRANSPORT"
DEFAULT_CONFIG: Final = "experiments.yaml"
