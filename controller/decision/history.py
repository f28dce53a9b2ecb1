"""What a rollout remembers beyond its present stage's counts: earlier stages, moments to look back to, looks. Pure.

Kept beside the present stage's evidence by :mod:`controller.state.evidence`, extended every tick by
:mod:`controller.rollout.collect`, and copied into the journal, so that every decision can be recomputed. Evidence is
packed into short texts when it is made, since most of it never changes again.
"""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from collections.abc import Mapping
from functools import lru_cache
from typing import Annotated, Any

from pydantic import AwareDatetime, Field

from abmesh.experiment.errors import StateError
from abmesh.experiment.parts import Price
from abmesh.inference.histogram import Bins
from controller.evidence.summary import SegmentEvidence, SliceEvidence, VariantEvidence, priced
from controller.records import Record, Weights

Evidence = Mapping[str, VariantEvidence]
"""Evidence of each variant, by name."""

_LARGEST = 1e300
"""What is kept of a logarithm that is not finite, which JSON could not hold."""

Edges = dict[str, tuple[float, ...]]
"""Latencies in milliseconds, by the metric that they were chosen for; see :mod:`controller.decision.quantiles`."""


class PastStage(Record):
    """A stage that is over.

    Attributes:
        id: of the decision that ended it, whose journal entry has this evidence as well.
        weights: while it lasted.
        evidence: packed, of everything that was counted in it.
        edges: that it was judged at.
    """

    id: str
    weights: Weights
    evidence: str
    edges: Edges = Field(default_factory=dict)


class Mark(Record):
    """A moment of the present stage since which harm is looked for by itself.

    Attributes:
        number: how many moments the rollout has marked, this one included; it says how surprising harm must be.
        at: when it was.
        evidence: packed, of everything that the stage had counted by then, without slices.
    """

    number: Annotated[int, Field(ge=1)]
    at: AwareDatetime
    evidence: str


class Look(Record):
    """A planned look at the goal that has been taken.

    Attributes:
        fraction: of the planned information that was there, in 0..1.
        z: the goal's standardised difference, positive where the candidate is better.
        ruled_out: whether it ruled a difference worth having out.
    """

    fraction: float
    z: float
    ruled_out: bool = False


class Memory(Record):
    """What is remembered of a rollout since it was started or resumed.

    Attributes:
        past: stages that are over, the oldest first.
        marks: of the present stage, the oldest first.
        marked: how many moments were ever marked.
        edges: that the present stage is judged at.
        looks: at the goal.
        peaks: the largest logarithm that each e-value has had in any stage, by what it speaks against; none that has
            never been above 0. What was proven at one look is not taken back at the next.
    """

    past: tuple[PastStage, ...] = ()
    marks: tuple[Mark, ...] = ()
    marked: int = 0
    edges: Edges = Field(default_factory=dict)
    looks: tuple[Look, ...] = ()
    peaks: dict[str, float] = Field(default_factory=dict)

    def risen(self, log_e: Mapping[str, float]) -> Memory:
        """With the logarithms of e-values, where they are larger than they have ever been."""
        new = {name: min(value, _LARGEST) for name, value in log_e.items() if value > self.peaks.get(name, 0.0)}
        return self.model_copy(update={"peaks": {**self.peaks, **new}}) if new else self


def pack(evidence: Evidence) -> str:
    """Evidence as a short ASCII text."""
    plain = {name: _dump(item) for name, item in evidence.items()}
    return base64.b85encode(zlib.compress(json.dumps(plain, separators=(",", ":")).encode(), 6)).decode()


@lru_cache(maxsize=512)
def unpack(text: str) -> Evidence:
    """The evidence of a packed text.

    Raises:
        StateError: the text is damaged.
    """
    try:
        plain = json.loads(zlib.decompress(base64.b85decode(text)))
        return {str(name): _load(item) for name, item in plain.items()}
    except (ValueError, TypeError, KeyError, AttributeError, zlib.error, binascii.Error) as error:
        raise StateError(f"packed evidence is damaged: {error}") from None


@lru_cache(maxsize=512)
def _unpack_at(text: str, prices: tuple[tuple[str, Price], ...]) -> Evidence:
    return priced(unpack(text), dict(prices))


def unpack_at(text: str, prices: Mapping[str, Price]) -> Evidence:
    """The evidence of a packed text, at these prices; the same object for the same text and prices.

    Raises:
        StateError: the text is damaged.
    """
    return _unpack_at(text, tuple(prices.items()))


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
    }


def _dump_bins(bins: Bins) -> list[tuple[float, float, int]]:
    return [(lower, width, count) for (lower, width), count in bins.items()]


def _load(plain: Mapping[str, Any]) -> VariantEvidence:
    """What was packed; of a version that counted less, what it counted."""
    return VariantEvidence(
        codes=_codes(plain["codes"]),
        duration_ms=int(plain["duration_ms"]),
        amounts=_amounts(plain.get("amounts", {})),
        slices={int(number): _slice(*parts) for number, *parts in plain["slices"]},
        groups={int(group): _bins(bins) for group, bins in plain["groups"]},
        ttft={int(group): _bins(bins) for group, bins in plain.get("ttft", ())},
        segments={
            str(name): SegmentEvidence(_codes(codes), _amounts(amounts), _bins(durations), _bins(ttft))
            for name, codes, amounts, durations, ttft in plain.get("segments", ())
        },
    )


def _slice(requests: Any, errors: Any, aborted: Any, duration_ms: Any, amounts: Any = None) -> SliceEvidence:
    return SliceEvidence(int(requests), int(errors), int(aborted), int(duration_ms), _amounts(amounts or {}))


def _codes(plain: Any) -> dict[int, int]:
    return {int(code): int(count) for code, count in plain}


def _amounts(plain: Any) -> dict[str, int]:
    return {str(name): int(count) for name, count in plain.items()}


def _bins(plain: Any) -> dict[tuple[float, float], int]:
    return {(float(lower), float(width)): int(count) for lower, width, count in plain}
