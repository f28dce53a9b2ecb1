"""Envoys' statistics as a Prometheus server answers with them. Used by the tests of what reads them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from controller.evidence.counts import Counts
from tests.controller.support import NAME

NOW = 1_764_000_000.5


def sample(name: str, value: float | str, instance: str = "envoy-1:9901", **labels: str) -> dict[str, Any]:
    """One series of an instant query's answer."""
    metric = {"__name__": name, "instance": instance, "job": "envoy", **labels}
    return {"metric": metric, "value": [NOW, f"{value:g}" if isinstance(value, float) else str(value)]}


def answer(series: Iterable[dict[str, Any]], **more: Any) -> str:
    """The answer as Prometheus writes it."""
    body = {"status": "success", "data": {"resultType": "vector", "result": list(series)}, **more}
    return json.dumps(body, separators=(",", ":"))


def target(counts: Counts, instance: str = "envoy-1:9901", *, uptime: int = 3600, up: int = 1) -> list[dict[str, Any]]:
    """Every series of one Envoy's; its histograms have a bucket for every bin."""
    found = [sample("up", up, instance)]
    if not up:
        return found
    found.append(sample("envoy_server_uptime", uptime, instance))
    who = {"experiment": NAME}
    for (variant, slice_, code), count in counts.requests.items():
        labels = who | {"variant": variant, "slice": str(slice_), "code": str(code)}
        found.append(sample("envoy_abmesh_requests", count, instance, **labels))
    for (variant, slice_, amount), count in counts.amounts.items():
        found.append(_amount(amount, "", count, instance, who | {"variant": variant, "slice": str(slice_)}))
    for (variant, segment, what), count in counts.segments.items():
        labels = who | {"variant": variant, "segment": segment}
        if isinstance(what, int):
            found.append(sample("envoy_abmesh_requests_by_segment", count, instance, **labels, code=str(what)))
        else:
            found.append(_amount(what, "_by_segment", count, instance, labels))
    return [*found, *_buckets(counts, instance, who)]


def _amount(amount: str, ending: str, count: int, instance: str, labels: Mapping[str, str]) -> dict[str, Any]:
    statistic, _, event = amount.partition(":")
    extra = {"event": event} if event else {}
    return sample(f"envoy_abmesh_{statistic}{ending}", count, instance, **labels, **extra)


def _buckets(counts: Counts, instance: str, who: Mapping[str, str]) -> list[dict[str, Any]]:
    rows: dict[tuple[str, str, int | str], dict[float, int]] = {}
    for (variant, histogram, place, lower, width), count in counts.bins.items():
        rows.setdefault((variant, histogram, place), {})[lower + width] = count
    found = []
    for (variant, histogram, place), bins in rows.items():
        by_segment = isinstance(place, str)
        name = f"envoy_abmesh_{histogram}{'_by_segment' if by_segment else ''}"
        labels = {**who, "variant": variant, "segment" if by_segment else "group": str(place)}
        total = 0
        for upper, count in sorted(bins.items()):
            total += count
            found.append(sample(f"{name}_bucket", total, instance, **labels, le=f"{upper:g}"))
        found.append(sample(f"{name}_bucket", total, instance, **labels, le="+Inf"))
        found.append(sample(f"{name}_count", total, instance, **labels))
    return found
