"""Finds one entry of a journal and the evidence that it needs, from the newest entry backwards.

A journal may have a gigabyte, and most of it is read past: lines are told apart by their bytes, and only those that may
be wanted are parsed. Called by ``abmesh explain``,
``abmesh analyze`` and ``abmesh replay``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from abmesh.experiment.errors import StateError
from controller.codec.evidence import pack
from controller.codec.inputs import earlier_stages, evidence_text
from controller.decision.history import History
from controller.records import JournalEntry
from controller.state.journal_lines import JournalLines
from controller.state.journal_reader import Reader, has_id
from controller.state.ports import EvidenceReader

_UNJUDGED: Final = b'"judgements":[],"goal":null'
"""In the line of an entry that judged nothing; never within a string, where quotes have a backslash."""

_STAGE: Final = re.compile(rb'"stage":\{"id":"([^"\\]*)"')
"""An entry's own stage comes first in its line."""


@dataclass(frozen=True, slots=True)
class Found:
    """An entry and what it needs.

    Attributes:
        entry: the one that was looked for.
        newest: the experiment's last one.
        packed: packed evidence of earlier stages by the id of the entry that ended them, as far as it is known.
        complete: whether no older file of the journal was removed.
    """

    entry: JournalEntry
    newest: JournalEntry
    packed: Mapping[str, str] = field(default_factory=dict)
    complete: bool = True


def decision_to_explain(
    source: Path | JournalLines, experiment: str, entry_id: str | None, kept: Mapping[str, str]
) -> Found | None:
    """The entry with an id, or else the last one that judged anything, or else the last one.

    A finished or waiting rollout repeats its last cause; the decision behind it is what needs explaining.

    Args:
        source: the journal, or its path.
        experiment: its name.
        entry_id: of the entry; None for the last that judged.
        kept: packed evidence that is known already, such as the current rollout's, which is kept apart.

    Returns:
        None if the journal has no entry of the experiment, or none with the id.

    Raises:
        StateError: the journal cannot be read.
    """
    with Reader(source, experiment) as journal:
        newest = next(journal.newest_first(), None)
        if newest is None:
            return None
        if entry_id is None:
            entry = next((item for item in journal.newest_first(_may_judge) if _judged(item)), newest)
        else:
            found = next((item for item in journal.newest_first(has_id(entry_id)) if item.id == entry_id), None)
            if found is None:
                return None
            entry = found
        packed = dict(_evidence(journal, earlier_stages(entry), kept))
        return Found(entry, newest, packed, journal.complete)


def packed_in(history: History) -> dict[str, str]:
    """The packed evidence of a rollout's earlier stages, by the id of the entry that ended each."""
    return {stage.id: pack(stage.evidence) for stage in history.past}


def kept_evidence(store: EvidenceReader, experiments: Iterable[str]) -> dict[str, str]:
    """The same of some current rollouts, as it is kept beside the journal.

    What is missing or damaged has none.
    """
    kept: dict[str, str] = {}
    for name in experiments:
        with suppress(StateError):
            live = store.read(name)
            kept |= {} if live is None else packed_in(live.history)
    return kept


def recorded_moments(
    source: Path | JournalLines, experiment: str, stage: str, ended_by: Collection[str], most: int
) -> Iterator[JournalEntry]:
    """A rollout's entries that have evidence, oldest first, evenly thinned out; the last one is among them.

    Args:
        source: the journal, or its path.
        experiment: its name.
        stage: the id of the rollout's present stage.
        ended_by: the ids of the entries that ended its earlier ones.
        most: how many entries at most.

    Raises:
        StateError: the journal cannot be read.
    """
    with Reader(source, experiment) as journal:
        ends = journal.newest_first(has_id(*ended_by)) if ended_by else iter(())
        stages = {stage, *(entry.stage.id for entry in ends if entry.id in ended_by)}
        places = list(journal.places(_in_stages(stages)))
        thin = max(1, -(-len(places) // most))
        for place in reversed(places[::thin]):
            entry = journal.read(place)
            if entry is not None and entry.stage.id in stages and evidence_text(entry):
                yield entry


def _in_stages(stages: Collection[str]) -> Callable[[bytes], bool]:
    """Tells by a line's bytes whether its entry has evidence and belongs to one of these stages."""
    wanted = {each.encode() for each in stages}

    def maybe(line: bytes) -> bool:
        found = _STAGE.search(line)
        return found is not None and found[1] in wanted and b'"evidence":"' in line

    return maybe


def _evidence(journal: Reader, ids: tuple[str, ...], kept: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    yield from ((stage, kept[stage]) for stage in ids if stage in kept)
    wanted = set(ids) - kept.keys()
    if not wanted:
        return
    for entry in journal.newest_first(has_id(*wanted)):
        if entry.id in wanted and (text := evidence_text(entry)):
            yield entry.id, text
            wanted.remove(entry.id)
            if not wanted:
                return


def _may_judge(line: bytes) -> bool:
    return _UNJUDGED not in line


def _judged(entry: JournalEntry) -> bool:
    return bool(evidence_text(entry) and (entry.judgements or entry.goal))
