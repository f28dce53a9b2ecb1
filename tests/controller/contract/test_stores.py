"""Evidence, journal and lease, each on its own."""

from __future__ import annotations

import pytest

from abmesh.experiment.errors import Conflict
from controller.state.evidence import StageEvidence
from controller.state.ports import Leadership
from tests.controller.contract.subjects import Subject
from tests.controller.state.entries import entry


def test_the_journal_knows_what_was_appended(subject: Subject) -> None:
    recorder = subject.recorder
    assert not recorder.knows(subject.name)
    assert recorder.entry(subject.name) is None
    for number in range(3):
        recorder.append(entry(f"entry-{number}", experiment=subject.name), durable=True)
    assert recorder.knows(subject.name)
    last, second = recorder.entry(subject.name), recorder.entry(subject.name, "entry-1")
    assert last is not None
    assert second is not None
    assert (last.id, second.id) == ("entry-2", "entry-1")
    assert recorder.entry(subject.name, "another") is None
    assert [each.id for each in subject.world.journal()] == ["entry-0", "entry-1", "entry-2"]


def test_evidence_is_kept_until_another_stage_begins(subject: Subject) -> None:
    store = subject.evidence
    assert store.read(subject.name) is None
    store.write(subject.name, StageEvidence("one", requests=5))
    subject.world.restart()
    assert subject.evidence.read(subject.name) == StageEvidence("one", requests=5)
    subject.evidence.write(subject.name, StageEvidence("two"))
    subject.world.restart()
    assert subject.evidence.read(subject.name) == StageEvidence("two")


def test_weights_are_written_only_into_the_document_that_was_looked_at(subject: Subject) -> None:
    subject.world.tick(0)
    assert subject.transitions is not None  # this process leads
    seen = subject.documents.read().generation
    subject.documents.write_weights(subject.name, {"model-a": 7000, "model-b": 3000}, based_on=seen, urgent=True)
    assert subject.world.weight() == 3000
    with pytest.raises(Conflict):
        subject.documents.write_weights(subject.name, {"model-a": 10_000, "model-b": 0}, based_on=seen)
    assert subject.world.weight() == 3000


def test_one_process_leads_until_it_lets_go(subject: Subject) -> None:
    first, second = subject.lease(), subject.lease()
    assert [first.acquire(), first.acquire(), _leads(first)] == [True, True, True]
    assert [second.acquire(), _leads(second)] == [False, False]
    assert second.leader().process
    first.release()
    assert not _leads(first)
    assert second.acquire()
    second.release()


def _leads(lease: Leadership) -> bool:
    return lease.held
