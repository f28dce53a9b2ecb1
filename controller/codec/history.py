"""A rollout's history as a record. Pure.

The names of the fields are those of the first version, which called a history the memory and its checkpoints marks.
Used by :mod:`controller.codec.inputs` for the journal and by :mod:`controller.state.evidence`.
"""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AwareDatetime, Field

from controller.codec.evidence import pack_once, unpack
from controller.decision import sample_ratio
from controller.decision.history import Checkpoint, History, Look, PastStage
from controller.records import Record, Weights

_Edges = dict[str, tuple[float, ...]]

_OLD_EMERGENCY_STOP = re.compile(r"errors at most (\S+) or as the control's")
_OLD_SAMPLE_RATIO = "requests are split as the weights say"


class _PastStage(Record):
    id: str
    weights: Weights
    evidence: str
    edges: _Edges = Field(default_factory=dict)


class _Mark(Record):
    number: Annotated[int, Field(ge=1)]
    at: AwareDatetime
    evidence: str
    effects: dict[str, float] = Field(default_factory=dict)


class _Look(Record):
    fraction: float
    z: float
    ruled_out: bool = False


class HistoryRecord(Record):
    """A history, its evidence packed."""

    past: tuple[_PastStage, ...] = ()
    marks: tuple[_Mark, ...] = ()
    marked: int = 0
    edges: _Edges = Field(default_factory=dict)
    looks: tuple[_Look, ...] = ()
    peaks: dict[str, float] = Field(default_factory=dict)

    @classmethod
    def of(cls, history: History, *, past_evidence: bool = True) -> HistoryRecord:
        """The record of a history.

        Args:
            history: what is to be kept.
            past_evidence: whether to keep the evidence of earlier stages; the journal has it in other entries.
        """
        return cls.model_construct(
            past=tuple(
                _PastStage.model_construct(
                    id=stage.id,
                    weights=dict(stage.weights),
                    evidence=pack_once(stage.evidence) if past_evidence else "",
                    edges=dict(stage.edges),
                )
                for stage in history.past
            ),
            marks=tuple(
                _Mark.model_construct(
                    number=item.number, at=item.at, evidence=pack_once(item.evidence), effects=dict(item.effects)
                )
                for item in history.checkpoints
            ),
            marked=history.taken,
            edges=dict(history.edges),
            looks=tuple(
                _Look.model_construct(fraction=look.fraction, z=look.z, ruled_out=look.ruled_out)
                for look in history.looks
            ),
            peaks=dict(history.peaks),
        )

    def history(self) -> History:
        """The history of the record.

        Raises:
            StateError: packed evidence is damaged.
        """
        return History(
            past=tuple(PastStage(stage.id, stage.weights, unpack(stage.evidence), stage.edges) for stage in self.past),
            checkpoints=tuple(
                Checkpoint(mark.number, mark.at, unpack(mark.evidence), mark.effects) for mark in self.marks
            ),
            taken=self.marked,
            edges=self.edges,
            looks=tuple(Look(look.fraction, look.z, look.ruled_out) for look in self.looks),
            peaks={_hypothesis(name): value for name, value in self.peaks.items()},
        )


def _hypothesis(name: str) -> str:
    """A hypothesis by today's name; the first version had sentences for two of them."""
    if name == _OLD_SAMPLE_RATIO:
        return sample_ratio.HYPOTHESIS
    found = _OLD_EMERGENCY_STOP.fullmatch(name)
    return f"emergency_stop {found[1]}" if found else name
