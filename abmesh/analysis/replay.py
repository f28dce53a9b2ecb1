"""Recomputes a journal's decisions from their recorded inputs. Pure; called by ``abmesh replay``.

Every entry of the controller holds what its decision was made of, but for the evidence of earlier stages, which stands
in the entries that ended them. A decision that comes out differently means that the journal was changed, or that
another version of abmesh made it. So does one of the controller that moved somebody without saying what it was made of.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pydantic import ValidationError

from abmesh.experiment.errors import StateError
from controller.decision.deciding import Inputs, deliberate
from controller.decision.history import unpack
from controller.records import Cause, JournalEntry, Kind
from controller.rollout.tick import decision_entry

_COMPARED = (
    "actor",
    "kind",
    "cause",
    "reason",
    "phase_before",
    "phase",
    "weights_before",
    "weights_after",
    "stage",
    "evidence",
    "judgements",
    "goal",
    "balance",
    "warnings",
    "sources",
)


@dataclass(frozen=True, slots=True)
class Replayed:
    """What became of one entry.

    Attributes:
        entry: as the journal has it.
        differences: what came out differently, as sentences; empty if nothing did.
        skipped: why it could not be recomputed; empty if it was.
    """

    entry: JournalEntry
    differences: tuple[str, ...] = ()
    skipped: str = ""


def replay(entries: Iterable[JournalEntry]) -> Iterator[Replayed]:
    """Recompute entries, which come oldest first and complete: earlier ones hold the evidence of earlier stages."""
    packed: dict[str, str] = {}
    for entry in entries:
        if entry.inputs is not None:
            packed[entry.id] = str(entry.inputs.get("evidence", ""))
        yield _replayed(entry, packed)


def inputs_of(entry: JournalEntry, packed: dict[str, str]) -> Inputs:
    """The inputs of an entry.

    Args:
        entry: of the controller's, with inputs.
        packed: evidence by the id of the entry that ended its stage.

    Raises:
        StateError: they are damaged, or evidence of an earlier stage is not there.
    """
    try:
        inputs = Inputs.model_validate(entry.inputs)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise StateError(f"the inputs of {entry.id} are damaged: {place}: {first['msg']}") from None
    past = []
    for stage in inputs.memory.past:
        if not packed.get(stage.id):
            raise StateError(f"the evidence of an earlier stage is not in this journal: entry {stage.id}")
        past.append(stage.model_copy(update={"evidence": packed[stage.id]}))
    memory = inputs.memory.model_copy(update={"past": tuple(past)})
    return inputs.model_copy(update={"memory": memory})


def _replayed(entry: JournalEntry, packed: dict[str, str]) -> Replayed:
    if entry.actor == "operator" and entry.cause is Cause.OPERATOR:
        return Replayed(entry, skipped="a person's command")
    if entry.inputs is None and (entry.kind is not Kind.HOLD or entry.weights_before != entry.weights_after):
        return Replayed(entry, ("inputs: missing, although the decision moved users or ended the rollout",))
    if entry.cause in (Cause.DOCUMENT_REFUSED, Cause.STATE_LOST) or entry.id.endswith("-abandoned"):
        return Replayed(entry, skipped="made without evidence")
    if entry.inputs is None:
        return Replayed(entry, skipped="recorded without inputs, by an earlier version")
    try:
        inputs = inputs_of(entry, packed)
        found = deliberate(inputs)
    except StateError as error:
        return Replayed(entry, (str(error),))
    evidence = unpack(inputs.evidence) if inputs.evidence else {}
    again = decision_entry(entry.id, entry.generation, found.situation, found.decision, evidence, inputs.now)
    before, after = entry.model_dump(mode="json"), again.model_dump(mode="json")
    differences = tuple(
        f"{name}: recorded {_short(before[name])}, recomputed {_short(after[name])}"
        for name in _COMPARED
        if before[name] != after[name]
    )
    return Replayed(entry, differences)


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 200 else text[:197] + "..."
