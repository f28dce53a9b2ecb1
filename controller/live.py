"""What every tick changes: a stage's evidence and the last decision, one file for each experiment.

Losing such a file loses evidence, never a step: a stage whose evidence is gone collects it afresh. So it is replaced as
a whole but not forced to disk, and one that is damaged or belongs to another stage is not used.

The form is compact, because it holds the last cumulative values of every Envoy: a row is a key and its count.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import AwareDatetime, ValidationError

from controller.evidence.counts import Counts
from controller.evidence.window import Reading, Window
from controller.locks import make_folder, replace_file
from controller.model import DecisionRecord, Record

FOLDER = "evidence"


@dataclass(frozen=True, slots=True)
class Live:
    """What is known of a stage beyond its state.

    Attributes:
        stage: the id of the stage that this belongs to.
        window: what was counted since its evidence began; None before that.
        decision: the last decision of any kind.
        requests: the candidate's answered requests in the window.
    """

    stage: str
    window: Window | None = None
    decision: DecisionRecord | None = None
    requests: int = 0


class _Counts(Record):
    requests: list[tuple[str, int, int, int]]
    duration_ms: list[tuple[str, int, int]]
    bins: list[tuple[str, int, float, float, int]]


class _Reading(Record):
    at: AwareDatetime
    uptime: float | None
    counts: _Counts


class _Window(Record):
    since: AwareDatetime
    totals: _Counts
    seen: dict[str, _Reading]


class _Live(Record):
    stage: str
    requests: int
    decision: DecisionRecord | None
    window: _Window | None


class LiveStore:
    """The files of one state folder. Only the leader writes them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / FOLDER

    def read(self, experiment: str) -> Live | None:
        """What was kept of an experiment; None if there is nothing, or nothing that makes sense."""
        try:
            kept = _Live.model_validate_json(self._path(experiment).read_bytes())
        except (OSError, ValidationError):
            return None
        window = None
        if kept.window is not None:
            seen = {
                envoy: Reading(item.at, item.uptime, _load(item.counts)) for envoy, item in kept.window.seen.items()
            }
            window = Window(kept.window.since, _load(kept.window.totals), seen)
        return Live(kept.stage, window, kept.decision, kept.requests)

    def write(self, experiment: str, live: Live) -> None:
        """Keep what is known of an experiment.

        Raises:
            StateError: it cannot be written.
        """
        window = None
        if live.window is not None:
            seen = {
                envoy: _Reading(at=item.at, uptime=item.uptime, counts=_dump(item.counts))
                for envoy, item in live.window.seen.items()
            }
            window = _Window(since=live.window.since, totals=_dump(live.window.totals), seen=seen)
        kept = _Live(
            stage=live.stage,
            requests=live.requests,
            decision=live.decision,
            window=window,
        )
        make_folder(self._folder)
        replace_file(self._path(experiment), kept.model_dump_json().encode(), durable=False)

    def _path(self, experiment: str) -> Path:
        return self._folder / f"{experiment}.json"


def _dump(counts: Counts) -> _Counts:
    return _Counts.model_construct(
        requests=[(*key, count) for key, count in counts.requests.items()],
        duration_ms=[(*key, count) for key, count in counts.duration_ms.items()],
        bins=[(*key, count) for key, count in counts.bins.items()],
    )


def _load(kept: _Counts) -> Counts:
    return Counts(
        {(variant, slice_, code): count for variant, slice_, code, count in kept.requests},
        {(variant, slice_): count for variant, slice_, count in kept.duration_ms},
        {(variant, group, lower, width): count for variant, group, lower, width, count in kept.bins},
    )
