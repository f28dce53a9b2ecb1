"""What many rollouts came to: rates, and the table of docs/statistics.md. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict
from statistics import median
from typing import Final

from bench.rollouts.batch import Batch, Rollout
from bench.rollouts.naive import EVERY
from bench.rollouts.plans import AS_FAST, DOUBLED, FEW, OPEN, SAME, SLOWER, Plan
from bench.rollouts.worlds import BROKEN_CONTROLS, HARMED, HARMLESS
from bench.simulations.outcome import Outcome
from controller.records import Cause, Phase

MISSING: Final = re.compile(r"\d+ of at least \d+ requests|about \d+ more requests \(.+ at this rate\)")
"""How a hold says how much is missing."""


def rolled_back(rollout: Rollout) -> bool:
    """Whether the candidate's users went back to the control because of proven harm."""
    return rollout.phase == Phase.ROLLED_BACK and rollout.cause == Cause.HARMFUL


def promoted(rollout: Rollout) -> bool:
    """Whether the candidate got all users."""
    return rollout.phase == Phase.PROMOTED


def rolled_back_at_first_step(rollout: Rollout) -> bool:
    """Whether it was rolled back before it got the weight of the second step."""
    return rolled_back(rollout) and rollout.highest == DOUBLED.steps[0]


def went_on(rollout: Rollout) -> bool:
    """Whether the candidate got more than the first step's weight."""
    return rollout.highest > SLOWER.steps[0]


def got_second_step(rollout: Rollout) -> bool:
    """Whether a candidate with doubled errors got the weight of the second step."""
    return rollout.highest > DOUBLED.steps[0]


def gave_back(rollout: Rollout) -> bool:
    """Whether the candidate's users went back to the control, for whatever reason."""
    return rollout.phase == Phase.ROLLED_BACK


def held(rollout: Rollout) -> bool:
    """Whether it stayed at the first step for want of requests, and said how many are missing."""
    waits = rollout.cause in (Cause.MIN_REQUESTS, Cause.INCONCLUSIVE)
    return waits and not went_on(rollout) and MISSING.search(rollout.reason) is not None


_QUESTIONS: Final[tuple[tuple[Plan, str, Callable[[Rollout], bool], float | None, float | None], ...]] = (
    (SAME, "rolled back", rolled_back, 0.05, None),
    (SAME, f"rolled back by a naive z every {EVERY} requests", lambda rollout: rollout.naive, None, None),
    (SAME, "promoted", promoted, None, None),
    (DOUBLED, "rolled back at 5%", rolled_back_at_first_step, None, 0.9),
    (DOUBLED, "went on from 5%", got_second_step, 0.05, None),
    (SLOWER, "went on from 50%", went_on, 0.05, None),
    (SLOWER, "rolled back", rolled_back, None, None),
    (AS_FAST, "rolled back", rolled_back, 0.05, None),
    (AS_FAST, "promoted", promoted, None, None),
    (FEW, "held for min_requests, with the number", held, None, 1.0),
    (OPEN, "held as inconclusive, with number and time", held, None, 1.0),
    *((plan, "rolled back", rolled_back, 0.05, None) for plan in HARMLESS),
    *((plan, "promoted", promoted, None, None) for plan in HARMLESS),
    *((plan, "rolled back", rolled_back, None, 0.9) for plan in HARMED),
    *((plan, "users went back to the control", gave_back, 0.0, None) for plan in BROKEN_CONTROLS),
)


def outcomes(rollouts: Sequence[Rollout]) -> list[tuple[Outcome, int]]:
    """Rates by scenario, each with the median of the requests that its rollouts took."""
    found = []
    for plan, rule, happened, allowed, wanted in _QUESTIONS:
        mine = [rollout for rollout in rollouts if rollout.plan == plan.name]
        if mine:
            outcome = Outcome(_described(plan), rule, plan.truth, len(mine), sum(map(happened, mine)), allowed, wanted)
            found.append((outcome, round(median(rollout.requests for rollout in mine))))
    return found


def _described(plan: Plan) -> str:
    steps = ", ".join(str(step) for step in plan.steps)
    metrics = " and ".join(rail.partition("metric: ")[2].partition(",")[0] for rail in plan.guardrails)
    least = f", at least {plan.min_requests} requests a step" if plan.per_minute is not None else ""
    return f"{metrics}, steps {steps}{least}"


def table(batches: Sequence[Batch], *, when: str = "") -> list[str]:
    """Lines of a Markdown table.

    Args:
        batches: all of them.
        when: day of the run.
    """
    rollouts = [rollout for batch in batches for rollout in batch.rollouts]
    requests, seconds = sum(batch.requests for batch in batches), sum(batch.seconds for batch in batches)
    lines = [
        f"{len(rollouts)} rollouts, {requests:,} requests through Envoy in {seconds / 60:.0f} minutes"
        f"{f' on {when}' if when else ''}, looked at in {sum(batch.ticks for batch in batches):,} ticks.",
        "",
        "| guardrails | truth | happened | runs | found | asked for | requests (median) |",
        "| --- | --- | --- | ---: | ---: | --- | ---: |",
    ]
    for outcome, size in outcomes(rollouts):
        asked = "" if outcome.allowed is None else f"at most {outcome.allowed:.3g}"
        asked = asked if outcome.wanted is None else f"at least {outcome.wanted:.3g}"
        mark = "" if outcome.kept else " (missed)"
        lines.append(
            f"| {outcome.check} | {outcome.truth} | {outcome.rule} | {outcome.runs} | {outcome.rate:.3f} "
            f"| {asked}{mark} | {size:,} |"
        )
    return lines


def document(batches: Sequence[Batch], seed: int, *, when: str = "") -> str:
    """Batches, rollouts and rates as JSON."""
    rollouts = [rollout for batch in batches for rollout in batch.rollouts]
    rows = [
        asdict(outcome) | {"rate": outcome.rate, "kept": outcome.kept, "median_requests": size}
        for outcome, size in outcomes(rollouts)
    ]
    runs = [
        {
            "seconds": round(batch.seconds, 1),
            "requests": batch.requests,
            "requests_per_second": round(batch.requests / batch.seconds),
            "ticks": batch.ticks,
            "tick_seconds": round(batch.tick_seconds, 3),
            "unassigned": batch.unassigned,
            "rollouts": [asdict(rollout) for rollout in batch.rollouts],
        }
        for batch in batches
    ]
    return json.dumps({"when": when, "seed": seed, "outcomes": rows, "batches": runs}, indent=1) + "\n"
