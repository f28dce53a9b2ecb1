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
        envoy: its address, which identifies it from tick to tick.
        sample: its cumulative values; None if it gave none.
        error: why there is no sample; empty if there is one.
        age: how old the sample was when it was read.
    """

    envoy: str
    sample: Sample | None
    error: str = ""
    age: timedelta = timedelta()


def readings_of(observations: Iterable[Observation], experiment: str, at: datetime) -> dict[str, Reading]:
    """Each Envoy's reading of one experiment, by its address; Envoys without a sample are left out.

    Args:
        observations: one for each Envoy.
        experiment: name of the experiment.
        at: when the Envoys were queried.
    """
    return {
        item.envoy: Reading(at - item.age, item.sample.uptime, item.sample.counts(experiment), item.sample.epoch)
        for item in observations
        if item.sample is not None
    }


class Source(Protocol):
    """Asks every Envoy for its statistics."""

    async def observe(self) -> list[Observation]:
        """Return one observation for each Envoy; of an Envoy that fails, one with an error. Never raises."""

    async def close(self) -> None:
        """Close connections and stop threads."""
