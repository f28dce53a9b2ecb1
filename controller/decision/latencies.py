"""Latency tables: both variants' histograms by stratum and since each checkpoint, laid out for many limits. Pure.

What was counted since a checkpoint is today's count above a limit less the count at the checkpoint, so nothing has to
be subtracted bin by bin. Earlier stages and checkpoints never change and are laid out once.

Used by :mod:`controller.decision.quantiles`, by way of :class:`~controller.decision.rollout_evidence.RolloutEvidence`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from abmesh.experiment.metrics import Histogram
from abmesh.experiment.names import GROUPS
from abmesh.inference.busiest import dominant
from abmesh.inference.cumulative import Cumulative
from abmesh.inference.numbers import Floats
from controller.decision.history import Evidence
from controller.decision.slice_rows import Flags
from controller.evidence.identity import ById
from controller.evidence.summary import VariantEvidence


@dataclass(frozen=True, slots=True)
class LatencyTable:
    """One variant's durations, or times to the first token, in groups of slices of its users.

    Arrays have shape (1 + checkpoints, strata, groups): the first row is all evidence; each further one is what the
    current stage, which is the last stratum, has counted since a checkpoint.

    Attributes:
        groups: one a stratum, each of all groups.
        before: what the current stage had counted at each checkpoint, shape (checkpoints * groups, bins).
        out: groups that are not looked at; None where all are.
    """

    groups: tuple[Cumulative, ...]
    before: Cumulative
    out: Flags | None = None

    @classmethod
    def of(
        cls,
        strata: Sequence[VariantEvidence],
        checkpoints: Sequence[Evidence],
        name: str,
        histogram: Histogram = "duration",
    ) -> LatencyTable:
        """Of a variant's evidence in each stratum, and of the current one's at each checkpoint."""
        past = tuple(_past(ById(item), histogram) for item in strata[:-1])
        present = _grouped([strata[-1]], histogram)
        return cls((*past, present), _at_checkpoints(tuple(map(ById, checkpoints)), name, histogram))

    @property
    def without_look_back(self) -> LatencyTable:
        """All evidence only."""
        out = None if self.out is None else self.out[:1]
        return replace(self, before=_at_checkpoints((), "", "duration"), out=out)

    def without_dominant(self, least: int) -> LatencyTable:
        """The same without the groups that :func:`abmesh.inference.busiest.dominant` finds."""
        return replace(self, out=dominant(replace(self, out=None).sizes(), least=least))

    def above(self, limits: Floats) -> Floats:
        """Requests above each stratum's limit; 0 where a limit is not a number.

        Args:
            limits: in milliseconds, shape (strata,).
        """
        known = ~np.isnan(limits)
        at = np.where(known, limits, 0.0)
        now = [groups.exceeding(limit) for groups, limit in zip(self.groups, at, strict=True)]
        return np.where(known[:, None], self._rows(now, self.before.exceeding(at[-1])), 0.0)

    def sizes(self) -> Floats:
        """Requests."""
        return self._rows([groups.sizes for groups in self.groups], self.before.sizes)

    def quantile(self, share: float, stratum: int | None = None) -> float | None:
        """The value that a share (0..1) of the requests does not exceed, in milliseconds; None without requests.

        Args:
            share: 0..1.
            stratum: which one; None for all of them.
        """
        kept = [self._kept(index) for index in range(len(self.groups))]
        return merged(kept if stratum is None else [kept[stratum]]).quantile(share)

    def since(self, row: int, bounds: Floats) -> tuple[Floats, float]:
        """Requests above bounds of shape (K,) since the checkpoint of a row above 0, and all requests since then."""
        looked = self._looked(row, -1)
        then = self.before.exceeding(bounds).reshape(len(bounds), -1, GROUPS)[:, row - 1]
        above = np.maximum(self.groups[-1].exceeding(bounds) - then, 0.0)[:, looked].sum(axis=-1)
        return np.asarray(above), float(self.sizes()[row, -1].sum())

    def earlier(self, row: int, bounds: Floats) -> tuple[Floats, float]:
        """The same up to that checkpoint."""
        looked = self._looked(row, -1)
        above = self.before.exceeding(bounds).reshape(len(bounds), -1, GROUPS)[:, row - 1, looked].sum(axis=-1)
        return np.asarray(above), float(self.before.sizes.reshape(-1, GROUPS)[row - 1, looked].sum())

    def _rows(self, now: Sequence[Floats], then: Floats) -> Floats:
        rows = np.zeros((1 + len(then) // GROUPS, len(now), GROUPS))
        rows[0] = now
        rows[1:, -1] = np.maximum(now[-1] - then.reshape(-1, GROUPS), 0.0)
        return rows if self.out is None else np.where(self.out, 0.0, rows)

    def _looked(self, row: int, stratum: int) -> Flags:
        return np.ones(GROUPS, dtype=bool) if self.out is None else ~self.out[row, stratum]

    def _kept(self, stratum: int) -> Cumulative:
        found = self.groups[stratum]
        return replace(found, before=found.before * self._looked(0, stratum)[:, None])


class LatencyTables:
    """The tables of the control and of the candidate, each histogram laid out when it is first asked for.

    Args:
        arms: the control's and the candidate's evidence in each stratum.
        checkpoints: what the current stage had counted at each checkpoint.
        control: its name.
        candidate: its name.
    """

    def __init__(
        self,
        arms: Sequence[tuple[VariantEvidence, VariantEvidence]],
        checkpoints: Sequence[Evidence],
        control: str,
        candidate: str,
    ) -> None:
        self._arms = arms
        self._checkpoints = checkpoints
        self._names = (control, candidate)
        self._least: int | None = None
        self._laid_out: dict[Histogram, tuple[LatencyTable, LatencyTable]] = {}

    def without_dominant(self, least: int) -> LatencyTables:
        """The same tables without the groups that dominate, and ``least`` in any case."""
        found = LatencyTables(self._arms, self._checkpoints, *self._names)
        found._laid_out, found._least = self._laid_out, least
        return found

    def of(self, histogram: Histogram) -> tuple[LatencyTable, LatencyTable]:
        """The control's and the candidate's table of a histogram."""
        if histogram not in self._laid_out:
            control, candidate = self._names
            self._laid_out[histogram] = (
                LatencyTable.of([a for a, _ in self._arms], self._checkpoints, control, histogram),
                LatencyTable.of([b for _, b in self._arms], self._checkpoints, candidate, histogram),
            )
        a, b = self._laid_out[histogram]
        return (a, b) if self._least is None else (a.without_dominant(self._least), b.without_dominant(self._least))

    def uneven(self, histogram: Histogram) -> bool:
        """Whether a group of either variant dominates."""
        return any(bool(dominant(replace(table, out=None).sizes()).any()) for table in self.of(histogram))


def merged(parts: Sequence[Cumulative]) -> Cumulative:
    """Histograms over bins of their own as one, over all of their bins and with one group."""
    if len(parts) == 1:
        return parts[0].whole
    keys = np.concatenate([np.stack([part.lower, part.width], axis=-1) for part in parts])
    counts = np.concatenate([np.diff(part.before.sum(axis=0)) for part in parts])
    bounds, which = np.unique(keys, axis=0, return_inverse=True)
    total = np.bincount(which.reshape(-1), weights=counts, minlength=len(bounds))
    before = np.concatenate([[0.0], np.cumsum(total)])[None]
    return Cumulative(bounds[:, 0], bounds[:, 1], before)


def _grouped(evidence: Sequence[VariantEvidence], histogram: Histogram) -> Cumulative:
    """Every group's histogram, of one evidence after the other."""
    found = [item.histograms(histogram) for item in evidence]
    return Cumulative.of([bins.get(group, {}) for bins in found for group in range(GROUPS)])


@lru_cache(maxsize=256)
def _past(evidence: ById[VariantEvidence], histogram: Histogram) -> Cumulative:
    return _grouped([evidence.value], histogram)


@lru_cache(maxsize=64)
def _at_checkpoints(checkpoints: tuple[ById[Evidence], ...], name: str, histogram: Histogram) -> Cumulative:
    return _grouped([checkpoint.value.get(name, VariantEvidence()) for checkpoint in checkpoints], histogram)
