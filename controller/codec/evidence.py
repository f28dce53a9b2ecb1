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
from abmesh.inference.histogram import Bins
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
        "segments": [
            (name, list(item.codes.items()), dict(item.amounts), _dump_bins(item.durations), _dump_bins(item.ttft))
            for name, item in evidence.segments.items()
        ],
        "failed": [(group, _dump_bins(bins)) for group, bins in evidence.failed.items()],
        "failed_in_segments": {
            name: _dump_bins(item.failed) for name, item in evidence.segments.items() if item.failed
        },
    }


def _dump_bins(bins: Bins) -> list[tuple[float, float, int]]:
    return [(lower, width, count) for (lower, width), count in bins.items()]


def _load(plain: Mapping[str, Any]) -> VariantEvidence:
    """What was packed; an older version that counted less has fewer fields."""
    failed = plain.get("failed_in_segments", {})
    return VariantEvidence(
        codes=_codes(plain["codes"]),
        duration_ms=int(plain["duration_ms"]),
        amounts=_amounts(plain.get("amounts", {})),
        slices={int(number): _slice(*parts) for number, *parts in plain["slices"]},
        groups={int(group): _bins(bins) for group, bins in plain["groups"]},
        ttft={int(group): _bins(bins) for group, bins in plain.get("ttft", ())},
        segments={
            str(name): SegmentEvidence(
                _codes(codes), _amounts(amounts), _bins(durations), _bins(ttft), _bins(failed.get(name, ()))
            )
            for name, codes, amounts, durations, ttft in plain.get("segments", ())
        },
        failed={int(group): _bins(bins) for group, bins in plain.get("failed", ())},
    )


def _slice(requests: Any, errors: Any, aborted: Any, duration_ms: Any, amounts: Any = None) -> SliceEvidence:
    return SliceEvidence(int(requests), int(errors), int(aborted), int(duration_ms), _amounts(amounts or {}))


def _codes(plain: Any) -> dict[int, int]:
    return {int(code): int(count) for code, count in plain}


def _amounts(plain: Any) -> dict[str, int]:
    return {str(name): int(count) for name, count in plain.items()}


def _bins(plain: Any) -> dict[tuple[float, float], int]:
    return {(float(lower), float(width)): int(count) for lower, width, count in plain}
