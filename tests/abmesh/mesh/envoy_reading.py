"""How Envoy reads rendered routes, as far as the native lane uses them, with Envoy's own library of patterns.

Written from Envoy's source and held against a real Envoy by tests/e2e/test_native_lane.py. Header values are bytes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import re2
import xxhash

from abmesh.experiment.names import UPSTREAM_TIMEOUT
from abmesh.mesh.filters import EXT_PROC, HEADERS

Headers = Mapping[str, Sequence[bytes]]


@dataclass(frozen=True)
class Taken:
    """The route that a request takes, and what Envoy does with it there.

    Attributes:
        asks: whether the server is asked on this route.
        cluster: that it leads to; empty if there is none, or if the server's answer decides.
        set_headers: request headers that the route sets; a time limit of its own counts as the header that sets one.
        stamp: ``x-model-version`` of the answer.
    """

    name: str
    asks: bool
    cluster: str
    set_headers: Mapping[str, str]
    stamp: str


@lru_cache
def compiled(pattern: str) -> Any:
    """A pattern as Envoy compiles it; the wrapper's own functions would read bytes as Latin-1."""
    return re2._re2.RE2(pattern.encode(), re2.Options())


def take(routes: Sequence[dict[str, Any]], headers: Headers) -> Taken:
    """The first route that matches."""
    route = next(route for route in routes if _matches(route["match"], headers))
    filters = route.get("typed_per_filter_config", {})
    action = route.get("route", {})
    set_headers, stamp = _headers_set(route, headers), _stamp(route)
    cluster = action.get("cluster", "")
    if "hash_policy" in action:
        entry = _picked(action, headers)
        cluster, stamp = entry["name"], _stamp(entry)
        set_headers |= _headers_set(entry, headers)
    limit = round(float(action.get("timeout", "0s").removesuffix("s")) * 1000)
    if limit:
        set_headers.setdefault(UPSTREAM_TIMEOUT, str(limit))
    asks = EXT_PROC in filters
    return Taken(route["name"], asks, cluster, set_headers, stamp)


def _matches(match: dict[str, Any], headers: Headers) -> bool:
    path = headers[":path"][0].partition(b"?")[0]
    where: bool = path == match["path"].encode() if "path" in match else path.startswith(match["prefix"].encode())
    return where and all(_holds(condition, headers) for condition in match.get("headers", ()))


def _holds(condition: dict[str, Any], headers: Headers) -> bool:
    values, inverted = headers.get(condition["name"]), condition.get("invert_match", False)
    if "present_match" in condition:
        return bool((values is not None) != inverted)
    if values is None:
        if not condition.get("treat_missing_header_as_empty"):
            return False
        values = [b""]
    joined, matcher = b",".join(values), condition["string_match"]
    if "exact" in matcher:
        found = joined == matcher["exact"].encode()
    elif "prefix" in matcher:
        found = joined.lower().startswith(matcher["prefix"].lower().encode())
    else:
        pattern = compiled(matcher["safe_regex"]["regex"])
        found = pattern.Match(pattern.Anchor.ANCHOR_BOTH, joined, 0, len(joined))[0] != (-1, -1)
    return bool(found != inverted)


def _picked(action: dict[str, Any], headers: Headers) -> dict[str, Any]:
    (policy,) = action["hash_policy"]
    (value,) = headers[
        policy["header"]["header_name"]
    ]  # Envoy would hash each of several: no unit matcher may accept them
    rewrite = policy["header"]["regex_rewrite"]
    number = xxhash.xxh64_intdigest(_rewritten(rewrite["pattern"]["regex"], rewrite["substitution"], value))
    entries: list[dict[str, Any]] = action["weighted_clusters"]["clusters"]
    number %= sum(entry["weight"] for entry in entries)
    for entry in entries:
        number -= entry["weight"]
        if number < 0:
            return entry
    raise AssertionError("unreachable")


def _rewritten(regex: str, substitution: str, value: bytes) -> bytes:
    """RE2's GlobalReplace, for patterns that match at most once because they begin with ``^``."""
    pattern = compiled(regex)
    (start, stop), *groups = pattern.Match(pattern.Anchor.UNANCHORED, value, 0, len(value))
    assert start == 0, "an unrewritten value would be hashed without its salt"
    found = [value[begin:end] for begin, end in groups]
    put = substitution.encode().replace(rb"\1", found[0]) if found else substitution.encode()
    return put + value[stop:]


def _headers_set(of: dict[str, Any], headers: Headers) -> dict[str, str]:
    """The request headers that a route or a weighted cluster sets, itself and through the filter."""
    filters = of.get("typed_per_filter_config", {})
    mutations = filters.get(HEADERS, {}).get("mutations", {}).get("request_mutations", ())
    options = [*(mutation["append"] for mutation in mutations), *of.get("request_headers_to_add", ())]
    return {option["header"]["key"]: _formatted(option["header"]["value"], headers) for option in options}


def _formatted(value: str, headers: Headers) -> str:
    """A header's value; of a repeated header, Envoy's format takes the first."""
    found = re.fullmatch(r"%REQ\((.*)\)%", value)
    return headers[found[1]][0].decode("latin-1") if found else value


def _stamp(of: dict[str, Any]) -> str:
    for option in of.get("response_headers_to_add", ()):
        if option["header"]["key"] == "x-model-version":
            return str(option["header"]["value"])
    return ""
