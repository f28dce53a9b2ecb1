"""The users of a simulation, who send requests. Deterministic for a seed.

Users have an activity (Pareto: a few send most of the requests), an error rate, a latency and other values of their
own; the assignment law gives them a bucket, and so a variant, slice and group. What optional parts of a truth need is
drawn last, so that a truth without them plays as it always has.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from abmesh.analysis.changed import with_weights
from abmesh.analysis.counted import Counted, Flags, Ints, Requests
from abmesh.analysis.truth import Outage, Quantity, Truth
from abmesh.experiment import metrics
from abmesh.experiment.model import Experiment
from abmesh.experiment.names import BUCKETS
from abmesh.experiment.weights import move_candidate
from abmesh.inference.numbers import Floats

_FASTEST: Final = 5.0
"""Milliseconds within which a fast failure answers."""


class Crowd:
    """All users, the heavy ones last."""

    def __init__(self, truth: Truth, random: np.random.Generator) -> None:
        self._truth = truth
        self._random = random
        self._size = truth.users + len(truth.heavy)
        activity = random.pareto(truth.activity, truth.users) + 1
        if truth.busiest is not None:
            activity = np.minimum(activity, truth.busiest)
        self._activity = activity / activity.sum()
        self._buckets = random.integers(0, BUCKETS, truth.users)
        proneness = np.exp(random.normal(0, truth.error_spread, truth.users) - truth.error_spread**2 / 2)
        between = truth.latency_spread * np.sqrt(truth.latency_between)
        slowness = random.normal(0, between, truth.users)
        self._within = truth.latency_spread * np.sqrt(1 - truth.latency_between)
        if truth.error_cv2 is not None:
            proneness = _gamma(random, math.sqrt(truth.error_cv2), truth.users)
        if truth.heavy:
            shares = np.array([user.share for user in truth.heavy])
            self._activity = np.concatenate([self._activity * (1 - shares.sum()), shares])
            proneness = np.concatenate([proneness, random.choice(proneness, len(shares))])
            slowness = np.concatenate([slowness, random.normal(0, between, len(shares))])
            self._buckets = np.concatenate([self._buckets, random.integers(0, BUCKETS, len(shares))])
        self._errors = truth.error_rate * proneness
        self._own = np.array([np.nan] * truth.users + [_known(user.error_rate) for user in truth.heavy])
        self._slowness = np.log(truth.latency_ms) + slowness
        self._segments = self._in_segments()
        self._levels = {item.metric: self._drawn(item) for item in truth.quantities}
        self._placed: tuple[Experiment, Ints, Ints] | None = None
        self._seated = not any(user.joins is not None for user in truth.heavy)

    def act(self, experiment: Experiment, candidate: str, counted: Counted, seconds: float, at: float) -> None:
        """Send the requests of some seconds and count them.

        Args:
            experiment: at its current weights.
            candidate: its name.
            counted: what to add them to.
            seconds: how long.
            at: seconds since the start, at the end of this time.
        """
        truth, random = self._truth, self._random
        wave = 1 + truth.drift * np.sin(2 * np.pi * at / 86_400)
        harmed = at >= truth.harm_after
        factor = truth.error_factor if harmed else 1.0
        sent = random.poisson(self._activity * truth.requests_per_second * wave * seconds)
        who = np.repeat(np.arange(self._size), sent)
        variant, slices = self._cells(experiment, candidate)
        mine = variant == list(experiment.weights).index(candidate)
        rates = self._errors * wave * np.where(mine, factor, 1.0)
        rates = np.where(np.isnan(self._own), rates, self._own)
        failed = random.random(who.size) < rates[who]
        duration = np.exp(self._slowness[who] + random.normal(0, self._within, who.size))
        is_candidate = mine[who]
        slower = truth.latency_factor if harmed else 1.0
        duration = np.maximum(np.round(duration * np.where(is_candidate, slower, 1.0)), 1.0)
        if harmed:
            for outage, theirs in ((truth.control, ~is_candidate), (truth.candidate, is_candidate)):
                self._fail(outage, theirs, failed, duration)
        found = Requests(variant[who], slices[who], self._segments[who], failed, duration)
        for item in truth.quantities:
            self._measure(item, found, who, is_candidate, harmed=harmed)
        counted.add(found)

    def _fail(self, outage: Outage, theirs: Flags, failed: Flags, duration: Floats) -> None:
        """Let some of one variant's requests fail, in place."""
        if outage.share <= 0:
            return
        down = theirs & (self._random.random(theirs.size) < outage.share)
        failed |= down
        if outage.fast:
            duration[down] = np.ceil(self._random.random(int(down.sum())) * _FASTEST)

    def _measure(self, item: Quantity, found: Requests, who: Ints, is_candidate: Flags, *, harmed: bool) -> None:
        """Add what these requests have of a quantity."""
        assert item.kind is not None
        factor = item.factor if harmed else 1.0
        level = self._levels[item.metric][who]
        if item.is_rate:
            moved = _raised(level, item.value, factor)
            happens = self._random.random(who.size) < np.where(is_candidate, moved, level)
            found.amounts[item.kind] = happens.astype(np.float64)
            if item.kind == metrics.CACHED:
                found.timed = ~happens
            return
        noise = _gamma(self._random, item.within, who.size)
        values = level * np.where(is_candidate, factor, 1.0) * noise
        if item.kind == metrics.GENERATION_MS:
            drawn = found.amounts.get(metrics.OUTPUT_TOKENS)
            tokens = np.full(who.size, self._truth.stream_tokens(candidate=False)) if drawn is None else drawn
            found.amounts[metrics.STREAMED_TOKENS] = tokens
            found.amounts[metrics.STREAMS] = None
            # Users' own speeds and noise divide, so that the mean over all tokens is what the truth says.
            speed = item.value * np.where(is_candidate, factor, 1.0)
            found.amounts[item.kind] = np.round(1000 * tokens / speed * (level / item.value) * noise)
        elif item.event:
            events = found.amounts.get(metrics.of_event(metrics.EVENTS, item.event))
            if events is None:
                events = np.zeros(who.size)
            found.amounts[metrics.of_event(metrics.VALUED_EVENTS, item.event)] = events
            found.amounts[item.kind] = np.round(values * metrics.VALUE_SCALE) * events
        elif item.kind == metrics.TTFT_MS:
            found.ttft_ms = np.maximum(np.round(values), 1.0)
            began = (~found.failed).astype(np.float64)
            found.amounts[item.kind], found.amounts[metrics.FIRST_TOKENS] = found.ttft_ms * began, began
        else:
            found.amounts[item.kind], found.amounts[metrics.USAGE] = np.round(values), None

    def _drawn(self, item: Quantity) -> Floats:
        """Each user's own value of a quantity."""
        random, size = self._random, self._size
        if not item.is_rate:
            return item.value * _gamma(random, item.between, size)
        if not item.between or not 0 < item.value < 1:
            return np.full(size, item.value)
        strength = (1 - item.value) / (item.value * item.between**2) - 1
        return random.beta(item.value * strength, (1 - item.value) * strength, size)

    def _in_segments(self) -> Ints:
        """The number of each user's segment; users are alike, so each segment is the next ones of them."""
        truth, start = self._truth, 0
        found = np.full(self._size, len(truth.segments))
        promised = 0.0
        for number, segment in enumerate(truth.segments):
            members = slice(start, start + segment.users)
            found[members] = number
            start += segment.users
            if segment.traffic is not None:
                self._activity[members] *= segment.traffic / self._activity[members].sum()
                promised += segment.traffic
        named = {segment.name: number for number, segment in enumerate(truth.segments)}
        for place, user in enumerate(truth.heavy, start=truth.users):
            found[place] = named.get(user.segment, len(truth.segments))
        if promised:
            fixed = np.isin(found, [n for n, s in enumerate(truth.segments) if s.traffic is not None])
            fixed[truth.users :] = True
            rest = 1 - self._activity[fixed].sum()
            self._activity[~fixed] *= rest / self._activity[~fixed].sum()
        return found

    def _cells(self, experiment: Experiment, candidate: str) -> tuple[Ints, Ints]:
        """The variant's number and the slice of every user, by the law."""
        if not self._seated:
            self._seat(experiment, candidate)
        if self._placed is None or self._placed[0] is not experiment:
            numbers = {name: number for number, name in enumerate(experiment.weights)}
            variants = np.array([numbers[cell.variant] for cell in experiment.cells])
            slices = np.array([cell.slice for cell in experiment.cells])
            self._placed = (experiment, variants[self._buckets], slices[self._buckets])
        return self._placed[1], self._placed[2]

    def _seat(self, experiment: Experiment, candidate: str) -> None:
        """Give the heavy users who join at a certain step a bucket that does."""
        joins = joining_steps(experiment, candidate)
        for place, user in enumerate(self._truth.heavy, start=self._truth.users):
            if user.joins is not None:
                self._buckets[place] = self._random.choice(np.flatnonzero(joins == min(user.joins, joins.max())))
        self._seated = True


def joining_steps(experiment: Experiment, candidate: str) -> Ints:
    """Which step first gives the candidate each bucket, counted from 1; one beyond the last where none does.

    Args:
        experiment: with a rollout, before its first step.
        candidate: its name.
    """
    assert experiment.rollout is not None
    owned = []
    for step in experiment.rollout.steps:
        weights = move_candidate(experiment.weights, experiment.control.name, candidate, step)
        owned.append([cell.variant == candidate for cell in with_weights(experiment, weights).cells])
    return np.where(np.any(owned, axis=0), np.argmax(owned, axis=0) + 1, len(owned) + 1)


def _gamma(random: np.random.Generator, variation: float, size: int) -> Floats:
    """Factors with mean 1 and a coefficient of variation."""
    if not variation:
        return np.ones(size)
    return random.gamma(1 / variation**2, variation**2, size)


def _raised(rates: Floats, mean: float, factor: float) -> Floats:
    """Users' rates whose mean is so many times as large, none above 1.

    What happens more often happens in the same share of every user's other requests.
    """
    if factor <= 1:
        return rates * factor
    return np.asarray(1 - (1 - rates) * (1 - mean * factor) / (1 - mean))


def _known(rate: float | None) -> float:
    return np.nan if rate is None else rate
