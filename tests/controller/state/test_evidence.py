from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.decision.history import History, Look
from controller.evidence.counts import NOTHING, Counts
from controller.evidence.window import Reading, Window, extend
from controller.records import Cause, DecisionRecord, Kind
from controller.state.evidence import EvidenceStore, StageEvidence

START = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
CONTROL = Counts(
    {("model-a", 1, 200): 900},
    {("model-a", 1, "duration_ms"): 9000},
    {("model-a", "duration", 0, 10.0, 1.0): 900},
    {("model-a", "casual", 200): 5, ("model-a", "casual", "usage"): 4},
)
BOTH = Counts(
    {**CONTROL.requests, ("model-b", 1, 200): 100},
    {**CONTROL.amounts, ("model-b", 1, "duration_ms"): 3, ("model-b", 1, "events:click"): 1},
    {**CONTROL.bins, ("model-b", "duration", 0, 10.5, 0.1): 100, ("model-b", "ttft", "casual", 1.0, 1.0): 2},
    CONTROL.segments,
)
LATER = START + timedelta(seconds=5)
LIVE = StageEvidence(
    "stage",
    Window(START, BOTH, {"a": Reading(LATER, 3600.0, BOTH, 2), "b": Reading(START, None, NOTHING)}),
    DecisionRecord(id="d", kind=Kind.HOLD, cause=Cause.MIN_REQUESTS, reason="so", at=START),
    100,
    History(looks=(Look(fraction=0.5, z=1.25),)),
)


@pytest.mark.parametrize("live", [LIVE, StageEvidence("stage"), StageEvidence("stage", Window(START))])
def test_it_comes_back_as_it_was_written(tmp_path: Path, live: StageEvidence) -> None:
    EvidenceStore(tmp_path / "new").write("chat", live)
    assert EvidenceStore(tmp_path / "new").read("chat") == live


COUNTS = st.builds(
    Counts,
    st.dictionaries(
        st.tuples(st.sampled_from("ab"), st.integers(0, 300), st.just(200)),
        st.integers(0, 300) | st.sampled_from([2**16, 2**32, 2**48, 2**64 - 1, 2**70]),
        max_size=4,
    ),
    st.dictionaries(
        st.tuples(st.sampled_from("ab"), st.integers(0, 300), st.sampled_from(["duration_ms", "events:7"])),
        st.integers(0, 2**40),
        max_size=2,
    ),
    st.dictionaries(
        st.tuples(
            st.sampled_from("ab"),
            st.sampled_from(["duration", "ttft"]),
            st.integers(0, 9) | st.sampled_from(["7", "other"]),
            st.floats(0, 1e9),
            st.floats(0, 1e9),
        ),
        st.integers(0, 70_000),
        max_size=4,
    ),
    st.dictionaries(
        st.tuples(st.sampled_from("ab"), st.sampled_from(["7", "other"]), st.sampled_from([200, "200"])),
        st.integers(0, 70_000),
        max_size=3,
    ),
)
READINGS = st.builds(Reading, st.just(LATER), st.none() | st.floats(0, 2.0**64), COUNTS)


@given(COUNTS, st.dictionaries(st.text(max_size=3), READINGS, max_size=4))
def test_whatever_was_counted_comes_back(
    tmp_path_factory: pytest.TempPathFactory, totals: Counts, seen: dict[str, Reading]
) -> None:
    store = EvidenceStore(tmp_path_factory.mktemp("live"))
    live = StageEvidence("stage", Window(START, totals, seen))
    store.write("chat", live)
    assert store.read("chat") == live


def test_a_window_goes_on_after_it_was_kept(tmp_path: Path) -> None:
    store = EvidenceStore(tmp_path)
    store.write("chat", LIVE)
    found = store.read("chat")
    assert found is not None
    assert found.window is not None
    assert LIVE.window is not None
    more = Counts({**BOTH.requests, ("model-b", 2, 503): 7}, BOTH.amounts, BOTH.bins, BOTH.segments)
    readings = {"a": Reading(LATER + timedelta(seconds=5), 3605.0, more)}
    assert extend(found.window, readings) == extend(LIVE.window, readings)
    assert extend(found.window, readings).totals.requests["model-b", 2, 503] == 7


@pytest.mark.parametrize("text", [b"", b"{", b"PK\x03\x04", b'{"stage": "x"}'])
def test_a_damaged_file_is_nothing(tmp_path: Path, text: bytes) -> None:
    store = EvidenceStore(tmp_path)
    assert store.read("chat") is None
    store.write("chat", LIVE)
    (tmp_path / "evidence" / "chat.bin").write_bytes(text)
    assert store.read("chat") is None


def test_a_file_with_any_byte_changed_or_the_end_missing_is_nothing(tmp_path: Path) -> None:
    store = EvidenceStore(tmp_path)
    store.write("chat", LIVE)
    path = tmp_path / "evidence" / "chat.bin"
    content = path.read_bytes()
    for place in range(0, len(content), 7):
        changed = bytearray(content)
        changed[place] ^= 0x41
        for damaged in (bytes(changed), content[:place]):
            path.write_bytes(damaged)
            assert store.read("chat") is None
