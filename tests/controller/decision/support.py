"""What the tests of judging share: evidence of users who are alike, and rollouts to judge it by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

from abmesh.experiment.bucketing import group_of
from abmesh.experiment.metrics import FAILED, FAILED_MS
from abmesh.experiment.rollout import Rollout
from abmesh.inference.histogram import merge
from controller.decision.look_back import Increment, LookBack
from controller.decision.rollout_evidence import RolloutEvidence
from controller.decision.verdicts import Judgement
from controller.evidence.strata import Stratum
from controller.evidence.summary import SliceEvidence, VariantEvidence
from controller.records import Phase, adopt
from controller.wording.verdicts import judgement_text
from tests.controller.support import START, experiment

SLICES = 50
STATE = adopt(experiment(), Phase.PROGRESSING, "s", START)
NOTHING = VariantEvidence()


def parts(total: int, slices: Sequence[int], shift: int = 0) -> dict[int, int]:
    """A number shared out over slices, as evenly as can be, the rest from the ``shift``-th on."""
    count = len(slices)
    return {slice_: total // count + ((index - shift) % count < total % count) for index, slice_ in enumerate(slices)}


def arm(
    requests: int,
    errors: int = 0,
    *,
    ms: int | Mapping[int, int] = 100,
    slices: Sequence[int] = range(SLICES),
    repeat: int = 1,
) -> VariantEvidence:
    """One variant's evidence.

    Args:
        requests: answered, shared out evenly over slices.
        errors: of these, shared out evenly as well.
        ms: how long each took; or how many of the requests took how long, for every slice alike.
        slices: with users.
        repeat: everything so many times.
    """
    mixed = {ms: 1} if isinstance(ms, int) else ms
    whole, left = sum(mixed.values()), requests
    durations: dict[int, dict[int, int]] = {}
    for index, (value, weight) in enumerate(mixed.items()):
        some = left if index == len(mixed) - 1 else min(left, round(requests * weight / whole))
        left -= some
        durations[value] = parts(some, slices, shift=index * 13)
    sizes = {slice_: sum(counts[slice_] for counts in durations.values()) for slice_ in slices}
    failed = _within(parts(errors, slices, shift=7), sizes)
    found: dict[int, SliceEvidence] = {}
    groups: dict[int, dict[tuple[float, float], int]] = {}
    for slice_ in slices:
        n = sizes[slice_]
        total = sum(value * counts[slice_] for value, counts in durations.items())
        if n:
            found[slice_] = SliceEvidence(n * repeat, failed[slice_] * repeat, 0, total * repeat)
        bins = groups.setdefault(group_of(slice_, SLICES), {})
        for value, counts in durations.items():
            key = (float(value), width(value))
            bins[key] = bins.get(key, 0) + counts[slice_] * repeat
    failures = sum(item.errors for item in found.values())
    answered = sum(item.requests for item in found.values())
    return VariantEvidence(
        codes={200: answered - failures, 500: failures},
        duration_ms=sum(item.duration_ms for item in found.values()),
        slices=found,
        groups=groups,
    )


def with_failures(served: VariantEvidence, failures: int, ms: int) -> VariantEvidence:
    """A variant that also failed so often, each time after so many milliseconds, shared out evenly over slices."""
    failed = arm(0, ms=ms) if not failures else arm(failures, failures, ms=ms)
    codes = {code: served.codes.get(code, 0) + failed.codes.get(code, 0) for code in (200, 500)}
    told = {number: {FAILED: item.errors, FAILED_MS: item.duration_ms} for number, item in failed.slices.items()}
    return VariantEvidence(
        codes=codes,
        duration_ms=served.duration_ms + failed.duration_ms,
        slices={
            number: SliceEvidence(
                item.requests + other.requests,
                item.errors + other.errors,
                0,
                item.duration_ms + other.duration_ms,
                told.get(number, {}),
            )
            for number, item in served.slices.items()
            for other in [failed.slices.get(number, SliceEvidence())]
        },
        groups={group: merge([bins, failed.groups.get(group, {})]) for group, bins in served.groups.items()},
        amounts={FAILED: failures, FAILED_MS: failed.duration_ms},
        failed=failed.groups,
    )


def _within(wanted: Mapping[int, int], sizes: Mapping[int, int]) -> dict[int, int]:
    """The numbers, where those that are too large leave what is too much to the others."""
    found = {slice_: min(wanted[slice_], size) for slice_, size in sizes.items()}
    over = sum(wanted.values()) - sum(found.values())
    for slice_, size in sizes.items():
        more = min(over, size - found[slice_])
        found[slice_] += more
        over -= more
    assert not over, "more errors than requests"
    return found


def width(ms: float) -> float:
    """Of the bin with two significant digits that a duration is in, in milliseconds."""
    return float(10 ** (len(str(int(ms))) - 2))


def scaled(evidence: VariantEvidence, factor: int) -> VariantEvidence:
    """The same durations in another unit."""
    return replace(
        evidence,
        duration_ms=evidence.duration_ms * factor,
        slices={
            number: replace(item, duration_ms=item.duration_ms * factor) for number, item in evidence.slices.items()
        },
        groups={
            group: merge([{(lower * factor, wide * factor): count for (lower, wide), count in bins.items()}])
            for group, bins in evidence.groups.items()
        },
    )


def evidence_of(
    control: VariantEvidence,
    candidate: VariantEvidence,
    *,
    weight: int = 5000,
    past: Sequence[Stratum] = (),
    since: Sequence[Increment] = (),
    edges: Mapping[str, Sequence[float]] | None = None,
    seconds: float = 60,
) -> RolloutEvidence:
    """A rollout whose current stage is this evidence."""
    return RolloutEvidence(
        "model-b",
        "model-a",
        SLICES,
        [*past, stage(control, candidate, weight=weight, edges=edges)],
        LookBack(tuple(since)),
        timedelta(seconds=seconds),
    )


def stage(
    control: VariantEvidence,
    candidate: VariantEvidence,
    *,
    weight: int = 5000,
    edges: Mapping[str, Sequence[float]] | None = None,
) -> Stratum:
    """A stage's evidence at a weight of the candidate in basis points."""
    return Stratum(
        {"model-a": 10_000 - weight, "model-b": weight}, {"model-a": control, "model-b": candidate}, edges or {}
    )


def text(judgement: Judgement) -> str:
    """The judgement as a sentence."""
    return judgement_text(judgement, STATE)


def rollout(*guardrails: Mapping[str, Any], **changes: Any) -> Rollout:
    """A plan with guardrails."""
    found = experiment(rollout={"guardrails": list(guardrails), **changes}).rollout
    assert found is not None
    return found
