"""What ``explain`` and ``analyze`` look for in a journal, from its end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from controller.codec.inputs import earlier_stages
from controller.records import Cause
from controller.state.evidence import EvidenceStore
from controller.state.lookup import decision_to_explain, packed_in, recorded_moments
from tests.controller.support import NAME, World, serve_and_tick, world


@pytest.fixture
def finished(tmp_path: Path) -> World:
    subject = world(tmp_path)
    serve_and_tick(subject, 100)
    serve_and_tick(subject, 3, seconds=700)
    assert subject.phase().finished
    return subject


def _spaced(path: Path) -> None:
    """Write every line anew in a form that is not the controller's own."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(dict(reversed(line.items()))) + "\n" for line in lines))


@pytest.mark.parametrize("spaced", [False, True])
def test_the_last_entry_that_judged_is_found_with_the_evidence_of_earlier_stages(
    finished: World, *, spaced: bool
) -> None:
    path = finished.folder / "journal.jsonl"
    entries = finished.journal()
    if spaced:
        _spaced(path)
    found = decision_to_explain(path, NAME, None, {})
    assert found is not None
    assert (found.entry.cause, found.newest) == (Cause.LAST_STEP_PASSED, entries[-1])
    assert tuple(found.packed) == earlier_stages(found.entry)[::-1] != ()
    assert found.complete
    for entry in entries:
        by_id = decision_to_explain(path, NAME, entry.id, {})
        assert by_id is not None
        assert (by_id.entry, set(by_id.packed)) == (entry, set(earlier_stages(entry)))


def test_evidence_that_is_kept_beside_the_journal_is_the_same(tmp_path: Path) -> None:
    subject = world(tmp_path)
    serve_and_tick(subject, 20)
    path = subject.folder / "journal.jsonl"
    live = EvidenceStore(subject.folder).read(NAME)
    assert live is not None
    kept = packed_in(live.history)
    found, by_journal = decision_to_explain(path, NAME, None, kept), decision_to_explain(path, NAME, None, {})
    assert found is not None
    assert by_journal is not None
    assert dict(found.packed) == dict(by_journal.packed) == kept != {}


def test_nothing_is_found_where_nothing_is(finished: World) -> None:
    path = finished.folder / "journal.jsonl"
    assert decision_to_explain(path, "other", None, {}) is None
    assert decision_to_explain(path, NAME, "nonsense", {}) is None
    assert decision_to_explain(path.with_name("none.jsonl"), NAME, None, {}) is None


@pytest.mark.parametrize("most", [1, 2, 3, 100])
def test_recorded_moments_are_thinned_out_and_have_the_last(tmp_path: Path, most: int) -> None:
    subject = world(tmp_path)
    serve_and_tick(subject, 20)
    serve_and_tick(subject, 4, seconds=700)
    live = EvidenceStore(subject.folder).read(NAME)
    assert live is not None
    ended = {stage.id for stage in live.history.past}
    entries = [entry for entry in subject.journal() if (entry.inputs or {}).get("evidence")]
    found = list(recorded_moments(subject.folder / "journal.jsonl", NAME, live.stage, ended, most))
    assert 0 < len(found) <= most
    assert found[-1] == entries[-1]
    assert [entry.at for entry in found] == sorted(entry.at for entry in found)
    if most == 100:
        assert found == entries
