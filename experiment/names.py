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

UPSTREAM_TIMEOUT: Final = "x-envoy-upstream-rq-timeout-ms"
"""Envoy's own header for a request's total time limit, in milliseconds."""

FORWARDED_PROTO: Final = "x-forwarded-proto"
"""Envoy's own header for the scheme that the client used."""

METADATA_NAMESPACE: Final = "abmesh"
METADATA_SET_COOKIE: Final = "set_cookie"

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
STAT_UNASSIGNED: Final = "unassigned"
TAG_EXPERIMENT: Final = "experiment"
TAG_VARIANT: Final = "variant"
TAG_SLICE: Final = "slice"
TAG_GROUP: Final = "group"
TAG_CODE: Final = "code"
TAG_ROUTE: Final = "route"

EXT_PROC_CLUSTER: Final = "abmesh-ext-proc"

ENV_CONFIG: Final = "ABMESH_CONFIG"
ENV_STATE: Final = "ABMESH_STATE"
DEFAULT_CONFIG: Final = "experiments.yaml"
