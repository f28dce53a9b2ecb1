"""Many experiments in one file: which of them found anything, once it is counted how many were asked. Pure.

Within an experiment Holm's method corrects for its variants; the smallest corrected p-value is the experiment's own.
Experiments have users of their own, so their p-values are independent, and Benjamini and Hochberg's method corrects for
how many there are. Called by :mod:`abmesh.cli.analyze_file`, shown by :mod:`abmesh.analysis.many_render`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np

from abmesh.analysis.always_valid import finding_of
from abmesh.analysis.many_reader import Arm, Many
from abmesh.analysis.records import Finding
from abmesh.analysis.table_comparisons import SHARE_METHODS, of_rates, share_test
from abmesh.analysis.table_question import CORRECTIONS, Adjust, TableQuestion, near
from abmesh.experiment.errors import SettingsError, UnknownName
from abmesh.inference.fixed import two_proportions
from abmesh.inference.multiple import holm
from abmesh.inference.numbers import Floats, Side
from abmesh.inference.sample_ratio import chi_square_p
from controller.decision.comparison import StratifiedSums
from controller.decision.shares import Method, ShareComparison

SHOWN = 10
"""Experiments whose strongest comparison is shown with its interval."""

SPLIT_ALPHA = 0.01

_AT_ONCE = 2_000
"""Comparisons that are computed in one go."""


@dataclass(frozen=True, slots=True)
class Compared:
    """One variant of an experiment against what it is compared with.

    Attributes:
        test: the experiment.
        variant: its name.
        arm: what was counted of it.
        other: what was counted of the control, or of the rest of the experiment.
        p: of "no difference", at any look, corrected within the experiment.
        plain_p: the same, for one look only.
    """

    test: str
    variant: str
    arm: Arm
    other: Arm
    p: float
    plain_p: float

    @property
    def difference(self) -> float:
        """The variant's share minus the other's."""
        return self.arm.y / self.arm.n - self.other.y / self.other.n


@dataclass(frozen=True, slots=True)
class TestFound:
    """One experiment.

    Attributes:
        name: of the experiment.
        compared: each variant; the strongest evidence first.
        p: of "no variant differs", at any look, corrected for the number of experiments.
        plain_p: the same, for one look only.
        split_p: of an even split, for one look only.
    """

    name: str
    compared: Sequence[Compared]
    p: float
    plain_p: float
    split_p: float


@dataclass(frozen=True, slots=True)
class ManyReport:
    """All experiments of a file.

    Attributes:
        many: what was read.
        alpha: 0..1, of all experiments together.
        adjust: how their p-values are corrected for each other.
        against: what each variant is compared with, in words.
        tests: the strongest evidence first.
        unadjusted: how many experiments are significant at any look and for one look only, if nothing is corrected.
        strongest: of the first few, the strongest comparison in full.
        skipped: experiments that have nothing to compare.
        even: whether an even split was promised.
    """

    many: Many
    alpha: float
    adjust: Adjust
    against: str
    tests: Sequence[TestFound]
    unadjusted: tuple[int, int]
    strongest: Sequence[tuple[Compared, Finding]]
    skipped: int
    even: bool

    @property
    def significant(self) -> int:
        """Experiments with a difference, at any look."""
        return sum(test.p <= self.alpha for test in self.tests)

    @property
    def plain_significant(self) -> int:
        """The same, for one look only."""
        return sum(test.plain_p <= self.alpha for test in self.tests)

    @property
    def uneven(self) -> int:
        """Experiments that are not split evenly, by Holm's method."""
        return sum(p <= SPLIT_ALPHA for p in holm([test.split_p for test in self.tests]))


def many_report(many: Many, question: TableQuestion) -> ManyReport:
    """Compare the variants of every experiment of a file.

    Args:
        many: the file.
        question: with the control, alpha and how to adjust.

    Raises:
        UnknownName: no experiment has the control.
        SettingsError: the split is given by name.
    """
    if question.weights not in (None, "even"):
        raise SettingsError("--weights of many experiments is even; their variants have different names")
    control = _control(many.tests, question.control)
    pairs = [pair for name, test in many.tests.items() for pair in _pairs(name, test, control)]
    tuned = {name: _tuned_for(test, question.tuned_for) for name, test in many.tests.items()}
    log_e = _log_e(pairs, [tuned[pair.test] for pair in pairs], question.alpha)
    plain = [_plain_p(pair) for pair in pairs]
    adjust = question.adjust or "bh"
    grouped: dict[str, list[tuple[Compared, float, float]]] = {}
    for pair, evidence, one_look in zip(pairs, log_e, plain, strict=True):
        p = min(1.0, 2 * math.exp(-max(evidence, 0.0)))
        grouped.setdefault(pair.test, []).append((pair, p, one_look))
    raw = [
        (sum(p <= question.alpha for _, p, _ in group) > 0, sum(p <= question.alpha for _, _, p in group) > 0)
        for group in grouped.values()
    ]
    within = [_within(group) for group in grouped.values()]
    correct = CORRECTIONS[adjust]
    adjusted = correct([group[0].p for group in within]) if within else []
    plainly = correct([min(item.plain_p for item in group) for group in within]) if within else []
    tests = [
        TestFound(group[0].test, group, float(p), float(plain_p), _split_p(many.tests[group[0].test]))
        for group, p, plain_p in zip(within, adjusted, plainly, strict=True)
    ]
    tests.sort(key=lambda test: (test.p, test.compared[0].p, test.plain_p))
    return ManyReport(
        many=many,
        alpha=question.alpha,
        adjust=adjust,
        against="the rest of its experiment" if control is None else control,
        tests=tests,
        unadjusted=(sum(any_look for any_look, _ in raw), sum(one for _, one in raw)),
        strongest=[_in_full(test, tuned[test.name], question.alpha) for test in tests[:SHOWN]],
        skipped=len(many.tests) - len(tests),
        even=question.weights == "even",
    )


def _control(tests: Mapping[str, Mapping[str, Arm]], wanted: str | None) -> str | None:
    """The control of all experiments: the one that was asked for, or one that all of them have; None for none."""
    names = dict.fromkeys(name for test in tests.values() for name in test)
    if wanted is not None:
        if wanted not in names:
            raise UnknownName("variant", wanted, (*list(names)[:10], "..."))
        return wanted
    found = [name for name in names if name.casefold() == "control"]
    return found[0] if len(found) == 1 and all(found[0] in test for test in tests.values()) else None


def _pairs(name: str, test: Mapping[str, Arm], control: str | None) -> list[Compared]:
    """What an experiment compares; nothing where a side has no requests."""
    known = {variant: arm for variant, arm in test.items() if arm.n > 0}
    if control is not None:
        if control not in known:
            return []
        sides = [(variant, arm, known[control]) for variant, arm in known.items() if variant != control]
    else:
        n, y = sum(arm.n for arm in known.values()), sum(arm.y for arm in known.values())
        sides = [(variant, arm, Arm(n - arm.n, y - arm.y)) for variant, arm in known.items()]
        # The second of two variants says the same as the first.
        sides = sides[:1] if len(sides) == 2 else sides if len(sides) > 2 else []
    return [Compared(name, variant, arm, other, 1.0, 1.0) for variant, arm, other in sides]


def _log_e(pairs: Sequence[Compared], tuned: Sequence[float], alpha: float) -> Floats:
    """The larger evidence of both sides, at any look, by the comparison that reports of a single file make.

    Args:
        pairs: what is compared.
        tuned: requests of both sides that each is tuned for.
        alpha: of each.
    """
    tests = [_test(pair, each, alpha) for pair, each in zip(pairs, tuned, strict=True)]
    found = np.zeros(len(pairs))
    for method in {method for method, _ in tests}:
        mine = [index for index, (of, _) in enumerate(tests) if of is method]
        for start in range(0, len(mine), _AT_ONCE):
            some = mine[start : start + _AT_ONCE]
            rho2 = np.array([tests[index][1] for index in some])
            comparison = _comparison([pairs[index] for index in some], method, rho2)
            sides = [comparison.increase(side, 0.0, relative=False) for side in (Side.GREATER, Side.LESS)]
            found[some] = np.maximum(*sides)
    return found


def _test(pair: Compared, tuned: float, alpha: float) -> tuple[Method, float]:
    both = pair.arm.n + pair.other.n
    return share_test(pair.arm.y + pair.other.y, both, tuned * pair.arm.n / both, alpha)


def _comparison(pairs: Sequence[Compared], method: Method, rho2: Floats) -> ShareComparison:
    """Pairs as rows of one comparison."""
    counts = [(pair.other.y, pair.other.n, pair.arm.y, pair.arm.n) for pair in pairs]
    y_a, n_a, y_b, n_b = np.array(counts, dtype=np.float64).T[:, :, None]
    return of_rates(StratifiedSums(y_a=y_a, n_a=n_a, y_b=y_b, n_b=n_b), method, cast(float, rho2))


def _plain_p(pair: Compared) -> float:
    return two_proportions(pair.other.y, pair.other.n, pair.arm.y, pair.arm.n, 0.05).p


def _within(group: Sequence[tuple[Compared, float, float]]) -> list[Compared]:
    """An experiment's comparisons, corrected for each other, the strongest first."""
    p, plain_p = holm([p for _, p, _ in group]), holm([p for _, _, p in group])
    found = [
        (raw, Compared(pair.test, pair.variant, pair.arm, pair.other, mine, plain))
        for (pair, raw, _), mine, plain in zip(group, p, plain_p, strict=True)
    ]
    return [item for _, item in sorted(found, key=lambda each: (each[0], each[1].plain_p))]


def _tuned_for(test: Mapping[str, Arm], wanted: float | None) -> float:
    """Requests of two variants; see :func:`abmesh.analysis.table_question.tuned_for`."""
    return wanted if wanted is not None else near(2 * sum(arm.n for arm in test.values()) / max(len(test), 1))


def _split_p(test: Mapping[str, Arm]) -> float:
    return chi_square_p([arm.n for arm in test.values()], [1 / len(test)] * len(test))


def _in_full(test: TestFound, tuned: float, alpha: float) -> tuple[Compared, Finding]:
    first = test.compared[0]
    method, rho2 = _test(first, tuned, alpha)
    return first, finding_of(_comparison([first], method, np.array([rho2])), alpha, SHARE_METHODS[method], share=True)
