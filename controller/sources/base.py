"""The interface of a source of statistics, and what it returns. The loop calls it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from controller.evidence.parse import Sample
from controller.evidence.window import Reading


@dataclass(frozen=True, slots=True)
class Observation:
    """One Envoy's answer, or why there is none.

    Attributes:
        envoy: what identifies it from tick to tick: its address, or its process.
        sample: its cumulative values; None if it gave none.
        error: why there is no sample; empty if there is one.
        age: how old the sample was when it was read.
        name: what people call it; empty for what identifies it.
        missed: whether it should have answered, so that its silence is missing data.
        listed: whether its source lists every process that lives, so that one without an observation is gone.
        started: when its process started; None if only its uptime says it.
    """

    envoy: str
    sample: Sample | None
    error: str = ""
    age: timedelta = timedelta()
    name: str = ""
    missed: bool = True
    listed: bool = False
    started: datetime | None = None

    @property
    def absent(self) -> bool:
        """Whether it did not answer, and should have."""
        return self.sample is None and self.missed

    @property
    def counts(self) -> bool:
        """Whether it answered, or should have."""
        return self.sample is not None or self.missed


def readings_of(observations: Iterable[Observation], experiment: str, at: datetime) -> dict[str, Reading]:
    """Each Envoy's reading of one experiment, by what identifies it; Envoys without a sample are left out.

    Args:
        observations: one for each Envoy.
        experiment: name of the experiment.
        at: when the Envoys were queried.
    """
    return {
        item.envoy: Reading(
            at - item.age, item.sample.uptime, item.sample.counts(experiment), item.sample.epoch, item.started
        )
        for item in observations
        if item.sample is not None
    }


def present(observations: Iterable[Observation]) -> frozenset[str] | None:
    """What identifies the Envoys that live; None if nobody can say who is gone, or there is none."""
    found = list(observations)
    return frozenset(item.envoy for item in found) if found and all(item.listed for item in found) else None


class Source(Protocol):
    """Asks every Envoy for its statistics."""

    async def observe(self) -> list[Observation]:
        """Return one observation for each Envoy; of an Envoy that fails, one with an error. Never raises."""

    async def close(self) -> None:
        """Close connections and stop threads."""
