"""Evidence as a short ASCII text: JSON, deflated, in base 85. Pure; used by the modules beside this one."""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from abmesh.experiment.errors import StateError
from abmesh.inference.histogram import Bins, merge, without
from controller.decision.history import Evidence
from controller.evidence.identity import ById
from controller.evidence.summary import SegmentEvidence, SliceEvidence, VariantEvidence


def pack(evidence: Evidence) -> str:
    """Evidence as a short text."""
    plain = {name: _dump(item) for name, item in evidence.items()}
    return base64.b85encode(zlib.compress(json.dumps(plain, separators=(",", ":")).encode(), 6)).decode()


def pack_once(evidence: Evidence) -> str:
    """The same, remembered for the object: for evidence that is kept at every tick and never changes again."""
    return _pack_once(ById(evidence))


@lru_cache(maxsize=512)
def _pack_once(evidence: ById[Evidence]) -> str:
    return pack(evidence.value)


@lru_cache(maxsize=512)
def unpack(text: str) -> Evidence:
    """The evidence of a packed text, the same object for the same text; none of an empty one.

    Raises:
        StateError: the text is damaged.
    """
    if not text:
        return {}
    try:
        plain = json.loads(zlib.decompress(base64.b85decode(text)))
        return {str(name): _load(item) for name, item in plain.items()}
    except (ValueError, TypeError, KeyError, AttributeError, zlib.error, binascii.Error) as error:
        raise StateError(f"packed evidence is damaged: {error}") from None


def _dump(evidence: VariantEvidence) -> dict[str, Any]:
    return {
        "codes": list(evidence.codes.items()),
        "duration_ms": evidence.duration_ms,
        "amounts": dict(evidence.amounts),
        "slices": [
            (number, item.requests, item.errors, item.aborted, item.duration_ms, dict(item.amounts))
            for number, item in evidence.slices.items()
        ],
        "groups": [(group, _dump_bins(bins)) for group, bins in evidence.groups.items()],
        "ttft": [(group, _dump_bins(bins)) for group, bins in evidence.ttft.items()],
        "failed": [(group, _dump_bins(bins)) for group, bins in evidence.failed.items()],
        "segments": [(name, *_dump_segment(item)[:4]) for name, item in evidence.segments.items()],
        # Apart, so that an older version can still read the file.
        "failed_in_segments": {name: _dump_segment(item)[4] for name, item in evidence.segments.items() if item.failed},
        "groups_in_segments": {
            name: [(group, *_dump_segment(part)) for group, part in item.groups.items()]
            for name, item in evidence.segments.items()
            if item.groups
        },
    }


def _dump_segment(item: SegmentEvidence) -> tuple[Any, ...]:
    """Codes, amounts, and of the histograms of durations, first tokens and failures what is in no group."""
    groups = item.groups.values()
    return (
        list(item.codes.items()),
        dict(item.amounts),
        _dump_bins(without(item.durations, merge(group.durations for group in groups))),
        _dump_bins(without(item.ttft, merge(group.ttft for group in groups))),
        _dump_bins(without(item.failed, merge(group.failed for group in groups))),
    )


def _dump_bins(bins: Bins) -> list[tuple[float, float, int]]:
    return [(lower, width, count) for (lower, width), count in bins.items()]


def _load(plain: Mapping[str, Any]) -> VariantEvidence:
    """What was packed; an older version that counted less has fewer fields."""
    return VariantEvidence(
        codes=_codes(plain["codes"]),
        duration_ms=int(plain["duration_ms"]),
        amounts=_amounts(plain.get("amounts", {})),
        slices={int(number): _slice(*parts) for number, *parts in plain["slices"]},
        groups={int(group): _bins(bins) for group, bins in plain["groups"]},
        ttft={int(group): _bins(bins) for group, bins in plain.get("ttft", ())},
        segments=_segments(plain),
        failed={int(group): _bins(bins) for group, bins in plain.get("failed", ())},
    )


def _segments(plain: Mapping[str, Any]) -> dict[str, SegmentEvidence]:
    failed, grouped = plain.get("failed_in_segments", {}), plain.get("groups_in_segments", {})
    found = {}
    for name, codes, amounts, durations, ttft in plain.get("segments", ()):
        groups = {int(group): _segment(*part) for group, *part in grouped.get(name, ())}
        found[str(name)] = _segment(codes, amounts, durations, ttft, failed.get(name, ()), groups)
    return found


def _segment(
    codes: Any,
    amounts: Any,
    durations: Any,
    ttft: Any,
    failed: Any,
    groups: Mapping[int, SegmentEvidence] | None = None,
) -> SegmentEvidence:
    groups = groups or {}
    parts = groups.values()
    return SegmentEvidence(
        _codes(codes),
        _amounts(amounts),
        merge([_bins(durations), *(part.durations for part in parts)]),
        merge([_bins(ttft), *(part.ttft for part in parts)]),
        merge([_bins(failed), *(part.failed for part in parts)]),
        groups,
    )


def _slice(requests: Any, errors: Any, aborted: Any, duration_ms: Any, amounts: Any = None) -> SliceEvidence:
    return SliceEvidence(int(requests), int(errors), int(aborted), int(duration_ms), _amounts(amounts or {}))


def _codes(plain: Any) -> dict[int, int]:
    return {int(code): int(count) for code, count in plain}


def _amounts(plain: Any) -> dict[str, int]:
    return {str(name): int(count) for name, count in plain.items()}


def _bins(plain: Any) -> dict[tuple[float, float], int]:
    return {(float(lower), float(width)): int(count) for lower, width, count in plain}
