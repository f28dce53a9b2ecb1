"""Recomputes a journal's decisions from their recorded inputs. Pure; called by ``abmesh replay``.

Causes and numbers are compared, never sentences: a reworded reason breaks no journal. A decision that comes out
differently means that the journal was changed, or that a version of abmesh that decides differently wrote it. An entry
of the controller that moved users without recording its inputs counts as a difference.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from abmesh.experiment.errors import StateError
from abmesh.text import shorten
from controller.codec.entries import decision_entry
from controller.codec.inputs import earlier_stages, ends_stage, evidence_text, load_inputs, rules_of
from controller.decision.decide import RULES, decide
from controller.records import Cause, JournalEntry, Kind

COMPARED: Final = (
    "actor",
    "kind",
    "cause",
    "obstacle",
    "phase_before",
    "phase",
    "weights_before",
    "weights_after",
    "stage",
    "evidence",
    "judgements",
    "control",
    "goal",
    "secondary_goals",
    "checks",
    "balance",
    "paradoxes",
    "sources",
)
"""Fields of an entry that are compared."""

SENTENCES: Final = frozenset({"text"})
"""Keys of outlines that hold sentences."""

NEWER: Final = frozenset(
    {
        "adjusted",
        "checks",
        "control",
        "elapsed",
        "heaviest",
        "latest",
        "latest_n",
        "leads",
        "look_z",
        "looks",
        "now",
        "obstacle",
        "on_harm",
        "others",
        "paradoxes",
        "promised",
        "returning",
        "secondary_goals",
        "seen",
        "set_aside",
        "still",
        "trend",
        "typical",
        "variance",
        "within",
    }
)
"""Fields and keys that version 0.1.0 did not record; where they are missing they are not compared."""

OLD_FORECAST: Final = "needed"
"""A forecast, which decides nothing, and which versions that do not record ``leads`` made in another way."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """The result for one entry.

    Attributes:
        entry: as the journal has it.
        differences: what came out differently, as sentences; empty if nothing did.
        skipped: why it could not be recomputed; empty if it was.
    """

    entry: JournalEntry
    differences: tuple[str, ...] = ()
    skipped: str = ""


def replay(
    entries: Iterable[JournalEntry], kept: Mapping[str, str] = MappingProxyType({}), *, complete: bool = True
) -> Iterator[Replayed]:
    """Recompute entries, which come oldest first: earlier ones hold the evidence of earlier stages.

    Args:
        entries: of a journal; one at a time is kept, and the evidence of those that ended a stage.
        kept: packed evidence of earlier stages that is known already.
        complete: whether they begin where the journal began. If not, entries that need what was removed are skipped.
    """
    packed = dict(kept)
    for entry in entries:
        if (text := evidence_text(entry)) and ends_stage(entry):
            packed[entry.id] = text
        yield _replayed(entry, packed, complete=complete)


def _replayed(entry: JournalEntry, packed: dict[str, str], *, complete: bool) -> Replayed:
    if entry.actor == "operator" and entry.cause is Cause.OPERATOR:
        return Replayed(entry, skipped="an operator's command")
    if entry.inputs is None and (entry.kind is not Kind.HOLD or entry.weights_before != entry.weights_after):
        return Replayed(entry, ("inputs: missing, although the decision moved users or ended the rollout",))
    if entry.cause in (Cause.DOCUMENT_REFUSED, Cause.STATE_LOST) or entry.id.endswith("-abandoned"):
        return Replayed(entry, skipped="made without evidence")
    if entry.inputs is None:
        return Replayed(entry, skipped="recorded without inputs, by an earlier version")
    if not complete and _began_before(entry, packed):
        return Replayed(entry, skipped="earlier stages of its rollout were in older files, which were removed")
    try:
        inputs = load_inputs(entry, packed)
    except StateError as error:
        return Replayed(entry, (str(error),))
    again = decision_entry(entry.id, entry.generation, inputs, decide(inputs))
    if rules_of(entry) != RULES:
        return Replayed(entry, skipped=_by_other_rules(entry, again))
    recorded, recomputed = entry.model_dump(mode="json", exclude_unset=True), again.model_dump(mode="json")
    differences = tuple(
        f"{name}: recorded {shorten(recorded.get(name, 'nothing'))}, recomputed {shorten(recomputed[name])}"
        for name in COMPARED
        if not _same_field(name, recorded, recomputed)
    )
    return Replayed(entry, differences)


def _by_other_rules(entry: JournalEntry, again: JournalEntry) -> str:
    """What today's rules make of what others decided."""
    other = f"decided by version {rules_of(entry)} of the rules; today's version {RULES}"
    if (entry.kind, entry.weights_after) == (again.kind, again.weights_after):
        return f"{other} decides the same"
    return f"{other} would {again.kind.value.replace('rollback', 'roll back')}, because {again.reason}"


def _began_before(entry: JournalEntry, packed: Mapping[str, str]) -> bool:
    """Whether the first of an entry's earlier stages are unknown, and no later one is: they ended before the first."""
    known = [stage in packed for stage in earlier_stages(entry)]
    return bool(known) and not known[0] and known == sorted(known)


def _same_field(name: str, recorded: Mapping[str, Any], recomputed: Mapping[str, Any]) -> bool:
    if name not in recorded:
        return name in NEWER or recomputed[name] == JournalEntry.model_fields[name].get_default(
            call_default_factory=True
        )
    return _same(recorded[name], recomputed[name])


def _same(recorded: Any, recomputed: Any) -> bool:
    """Whether everything came out the same, sentences aside."""
    if isinstance(recorded, dict) and isinstance(recomputed, dict):
        keys = (recorded.keys() | recomputed.keys()) - SENTENCES
        if "leads" not in recorded:
            keys -= {OLD_FORECAST}
        missing = keys - recorded.keys()
        return missing <= NEWER and all(_same(recorded[key], recomputed.get(key)) for key in keys - missing)
    if isinstance(recorded, list) and isinstance(recomputed, list):
        return len(recorded) == len(recomputed) and all(map(_same, recorded, recomputed))
    return bool(recorded == recomputed)
