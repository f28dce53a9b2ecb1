"""Names that more than one part of abmesh must agree on, each written once.

Headers are lower case, as HTTP/2 and Envoy have them.
"""

from __future__ import annotations

from typing import Final

MODEL_VERSION: Final = "x-model-version"
"""Request header that Envoy routes on, and response header that clients see: the variant's name."""

TRUSTED_PREFIX: Final = "x-ab-"
"""Envoy strips every header of this prefix that a client sent, before anything else."""

ENVOY_PREFIX: Final = "x-envoy-"
"""Envoy's own headers, which it strips from clients as well."""

EXPERIMENT: Final = "x-ab-experiment"
SLICE: Final = "x-ab-slice"
GROUP: Final = "x-ab-group"
SEGMENT: Final = "x-ab-segment"

ISSUED: Final = "x-ab-issued"
"""On requests that were given a new identity: a session begins. On events of a unit that was issued: of a session.

One header for both, since Envoy takes no longer expression of the names that the server may set than we have.
"""

CONTINUED: Final = "x-ab-continued"
"""On the second request of a session, where that is an event."""

EVENT: Final = "x-ab-event"
"""On a feedback event that may be counted: its name."""

EVENT_VALUE: Final = "x-ab-value"
"""On a feedback event that carries a value: the value in thousandths."""

EVENTS_PATH: Final = "/_ab/events/"
"""Start of the path that feedback events are sent to; the event's name follows."""

VALUE_PARAMETER: Final = "value"
"""Query parameter that carries an event's value."""

EXPERIMENT_PARAMETER: Final = "experiment"
"""Query parameter that says which experiment an event is about, where several declare it."""

CONTINUED_ENDING: Final = "-continued"
"""What the issued cookie's name is followed by in the name of the cookie that marks a continued session."""

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
METADATA_EVENT: Final = "event"

OTHER_SEGMENT: Final = "other"
"""The segment of everybody whose segment header has no declared value."""

BUCKETS: Final = 10_000
"""Size of bucket space; one bucket is one basis point (0.01%) of the users."""

GROUPS: Final = 10
"""Groups of slices that histograms are tagged with."""

STATS_SCOPE: Final = "abmesh"
STAT_REQUESTS: Final = "requests"
STAT_DURATION_MS: Final = "duration_ms"
STAT_DURATION: Final = "duration"
STAT_TTFT: Final = "ttft"
STAT_UNASSIGNED: Final = "unassigned"
BY_SEGMENT: Final = "_by_segment"
"""Ending of a statistic that has a segment instead of a slice or a group."""
TAG_EXPERIMENT: Final = "experiment"
TAG_VARIANT: Final = "variant"
TAG_SLICE: Final = "slice"
TAG_GROUP: Final = "group"
TAG_CODE: Final = "code"
TAG_ROUTE: Final = "route"
TAG_EVENT: Final = "event"
TAG_SEGMENT: Final = "segment"

EXT_PROC_CLUSTER: Final = "abmesh-ext-proc"

ENV_CONFIG: Final = "ABMESH_CONFIG"
ENV_STATE: Final = "ABMESH_STATE"
DEFAULT_CONFIG: Final = "experiments.yaml"
