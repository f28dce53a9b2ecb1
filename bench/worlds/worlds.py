"""The worlds, as data: what an independent check of the statistics found, and what must become of each. Pure.

In all of them 50,000 users come back, a few send most of the requests, some fail more often than others, and the
controller looks every five minutes for up to six hours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import lru_cache
from typing import Final

from abmesh.analysis.truth import LATE, HeavyUser, Outage, Quantity, Segment, Truth
from bench.worlds import documents
from bench.worlds.world import Asked, Events, Seen, World

ALPHA: Final = 0.05
_SPLIT_ALPHA: Final = 0.01
_HALF_AN_HOUR, _A_DAY = timedelta(minutes=30), timedelta(days=1)

USUAL: Final = Truth(
    users=50_000,
    requests_per_second=10.0,
    activity=1.2,
    busiest=200.0,
    error_rate=0.01,
    error_cv2=2.0,
    latency_ms=200.0,
    latency_spread=0.6,
    latency_between=0.25,
)

_EFFECTS: Final = ((0.50, 0.02), (0.80, 0.02), (0.02, 0.004))
"""Shares of the control, and what the candidate adds."""

_DEFAULT, _ANY = "the shipped document's", "errors +50%, p95 +20%, harm: any"


def rolled_back(seen: Seen) -> bool:
    """Whether the candidate's users went back to the control."""
    return seen.ending == "rolled_back"


def promoted(seen: Seen) -> bool:
    """Whether the candidate got all users for good."""
    return seen.ending == "promoted"


def stuck(seen: Seen) -> bool:
    """Whether nothing was decided."""
    return seen.ending == "undecided"


def won(seen: Seen) -> bool:
    """Whether the experiment declared the candidate the winner."""
    return seen.cause == "winner"


def said(seen: Seen) -> bool:
    """Whether the reasons say first that the control is broken."""
    return seen.said


def _significant(seen: Seen) -> bool:
    """Whether a table's report finds a difference."""
    return seen.cause == "significant"


def found_in(metric: str) -> Callable[[Seen], bool]:
    """Whether a segment seems to differ in a metric."""
    return lambda seen: metric in seen.found


FALSE: Final = Asked("rolled back", rolled_back, allowed=ALPHA)
SPLIT: Final = Asked("sample-ratio alarm", lambda seen: seen.split_alarm, allowed=_SPLIT_ALPHA)
NEVER_BACK: Final = Asked("users went back to the control", rolled_back, allowed=0.0)
FOUND: Final = Asked("rolled back", rolled_back, wanted=0.95)


def _stuck(allowed: float) -> Asked:
    return Asked("neither promoted nor rolled back", stuck, allowed=allowed)


@lru_cache(maxsize=1)
def worlds() -> tuple[World, ...]:
    """All worlds, in the order of the table."""
    return (*_equal(), *_broken_controls(), *_heavy(), *_hidden(), *_harm(), *_goals(), *_tables(), *_segments())


def world(name: str) -> World:
    """The world with a name.

    Raises:
        KeyError: there is none.
    """
    return {item.name: item for item in worlds()}[name]


def _equal() -> Sequence[World]:
    default = documents.default()
    few, drift = replace(USUAL, error_rate=0.002), replace(USUAL, drift=0.5)
    many, slow = replace(USUAL, error_rate=0.03), replace(USUAL, latency_spread=1.0)
    decided, valid = (FALSE, _stuck(0.05), SPLIT), (FALSE, SPLIT)
    return (
        World("equal", "nothing differs, 1% errors", _DEFAULT, default, (USUAL,), decided),
        # Six hours of a small canary have too few errors to be sure that they are not twice as frequent.
        World("equal-rare", "nothing differs, .2% errors", _DEFAULT, default, (few,), valid),
        World("equal-drift", "nothing differs, errors and load drift by half", _DEFAULT, default, (drift,), decided),
        World("equal-frequent", "nothing differs, 3% errors", _DEFAULT, default, (many,), decided),
        World("equal-spread", "nothing differs, durations vary widely", _DEFAULT, default, (slow,), valid),
        World("equal-any", "nothing differs, 1% errors", _ANY, documents.any_harm(), (USUAL,), valid),
    )


def _broken_controls() -> Sequence[World]:
    found = []
    for share in (0.8, 0.6, 0.3):
        for fast, words in ((True, "within 5 ms"), (False, "at normal speed")):
            truth = replace(USUAL, control=Outage(share, fast))
            asked = (NEVER_BACK, Asked("the reason says first that the control is broken", said, wanted=1.0))
            name = f"control-fails-{share:.0%}-{'fast' if fast else 'slow'}".replace("%", "")
            words = f"the control fails {share:.0%} of its requests {words}"
            found.append(World(name, words, _DEFAULT, documents.default(), (truth,), asked, runs=100 if fast else 40))
    return found


def _heavy() -> Sequence[World]:
    default = documents.default()

    def of(*users: HeavyUser) -> tuple[Truth, ...]:
        return tuple(replace(USUAL, heavy=(user,)) for user in users)

    alike = of(HeavyUser(0.1))
    on_control = of(HeavyUser(0.3, joins=LATE))
    small = of(
        *(
            HeavyUser(share, error_rate=rate, joins=joins)
            for rate in (0.2, 0.5, 1.0)
            for share in (0.02, 0.03)
            for joins in (1, LATE)
        )
    )
    probe = of(*(HeavyUser(share, error_rate=rate, joins=1) for rate in (0.3, 0.6, 1.0) for share in (0.10, 0.15)))
    return (
        World(
            "heavy-alike",
            "nothing differs, one user sends 10%",
            _DEFAULT,
            default,
            alike,
            (FALSE, _stuck(0.05), SPLIT),
        ),
        World(
            "heavy-on-control",
            "nothing differs, one user of the control sends 30%",
            _DEFAULT,
            default,
            on_control,
            (FALSE, _stuck(0.20), SPLIT),
        ),
        World(
            "heavy-fails",
            "one user of either variant sends 2-3% and fails 20-100%",
            _DEFAULT,
            default,
            small,
            (FALSE, _stuck(0.10), SPLIT),
        ),
        World(
            "heavy-probe",
            "one user sends 10-15%, fails 30-100% wherever it is, and is in the smallest stage",
            _DEFAULT,
            default,
            probe,
            (FALSE, SPLIT),
        ),
    )


def _hidden() -> Sequence[World]:
    tenfold = replace(USUAL, error_rate=0.005, error_factor=10.0)
    found = [
        World(
            f"hidden-{share:.0%}".replace("%", ""),
            f"everybody else fails 5% instead of .5% on the candidate; a healthy user of the control sends {share:.0%}",
            _DEFAULT,
            documents.default(),
            (replace(tenfold, heavy=(HeavyUser(share, error_rate=0.0, joins=LATE),)),),
            (Asked("rolled back within 30 min", rolled_back, wanted=1.0),),
            longest=_HALF_AN_HOUR,
        )
        for share in (0.2, 0.3)
    ]
    behind = replace(USUAL, error_factor=20.0, heavy=(HeavyUser(0.2, error_rate=0.0, joins=1),))
    words = "everybody else fails 20% on the candidate; a healthy user of the candidate sends 20%"
    return (*found, World("hidden-candidate", words, _DEFAULT, documents.default(), (behind,), (FOUND,)))


def _harm() -> Sequence[World]:
    default, any_harm = documents.default(), documents.any_harm()
    return (
        World(
            "doubled",
            "errors doubled from 2 to 4%",
            _ANY,
            any_harm,
            (replace(USUAL, error_rate=0.02, error_factor=2.0),),
            (FOUND,),
        ),
        World(
            "doubled-rare",
            "errors doubled from .5 to 1%",
            _DEFAULT,
            default,
            (replace(USUAL, error_rate=0.005, error_factor=2.0),),
            (Asked("rolled back", rolled_back, wanted=0.8), Asked("promoted", promoted, allowed=0.05)),
        ),
        World(
            "slower",
            "30% slower",
            _DEFAULT,
            default,
            (replace(USUAL, latency_factor=1.3),),
            (Asked("rolled back", rolled_back, wanted=0.8), Asked("promoted", promoted, allowed=0.05)),
        ),
        World(
            "late",
            "after 45 minutes the candidate fails 20%",
            _DEFAULT,
            default,
            (replace(USUAL, candidate=Outage(0.2), harm_after=2700.0),),
            (FOUND,),
        ),
    )


def _goals() -> Sequence[World]:
    found = []
    for baseline, effect in _EFFECTS:
        metric = "click_rate" if baseline < 0.1 else "cache_rate"
        document = documents.goal(metric, baseline, effect)
        name, rules = f"goal-{baseline:.0%}".replace("%", ""), f"goal {metric}, at the size of `abmesh plan`"
        better = 1 + effect / baseline
        for suffix, factor, asked in (
            ("", better, (Asked("won", won, wanted=0.8),)),
            ("-equal", 1.0, (Asked("won", won, allowed=ALPHA / 2), FALSE)),
        ):
            # Users are alike, as the plan assumes of requests that are independent.
            truth = replace(USUAL, quantities=(Quantity(metric, baseline, factor, between=0.0),))
            words = f"{metric} {baseline:.1%}, and {baseline * factor:.1%} of the candidate"
            found.append(World(f"{name}{suffix}", words, rules, document, (truth,), asked, longest=_A_DAY))
    return found


def _tables() -> Sequence[World]:
    found, rules = [], "`abmesh analyze` at the anytime size of `abmesh plan`"
    for baseline, effect in _EFFECTS:
        size, higher = documents.planned(baseline, effect), baseline + effect
        for suffix, share, asked in (
            ("", higher, Asked("significant", _significant, wanted=0.8)),
            ("-equal", baseline, Asked("significant", _significant, allowed=ALPHA)),
        ):
            name = f"analyze-{baseline:.0%}{suffix}".replace("%", "")
            words, events = f"{share:.1%} against {baseline:.1%}", Events(baseline, share, size)
            found.append(World(name, words, rules, documents.default(), (), (asked,), events, runs=200))
    return found


def _segments() -> Sequence[World]:
    measured = (Quantity("click_rate", 0.1, between=1.0), Quantity("output_tokens_mean", 300.0))
    truths = tuple(
        replace(USUAL, quantities=measured, segments=(Segment("power", users, 0.2), Segment("casual", 10_000)))
        for users in (40, 50, 60)
    )
    asked = tuple(
        Asked(f"a segment differs in {metric}", found_in(metric), allowed=ALPHA)
        for metric in ("error_rate", "latency_p95", "click_rate", "output_tokens_mean")
    )
    return (
        World(
            "segments",
            "nothing differs, 40-60 users of one segment send 20%",
            "a report by segment after two hours at 50%",
            documents.watched(),
            truths,
            asked,
            longest=timedelta(hours=2),
            segments=True,
            runs=100,
        ),
    )
