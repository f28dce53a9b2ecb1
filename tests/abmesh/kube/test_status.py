"""A status is written as the object has it, and a condition's time moves only when it turns."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from abmesh.kube.status import (
    ACCEPTED,
    HEALTHY,
    ExperimentStatus,
    Leader,
    StageStatus,
    candidate_weight,
    percentages,
    points,
    with_condition,
)

NOW = datetime(2026, 12, 1, 3, 0, tzinfo=UTC)
LATER = NOW + timedelta(minutes=5)


class TestConditions:
    def test_time_moves_when_the_status_does(self) -> None:
        first = with_condition((), ACCEPTED, "True", "Valid", "", now=NOW)
        (turned,) = with_condition(first, ACCEPTED, "False", "Invalid", "spec.salt: no", now=LATER)
        assert (turned.status, turned.reason, turned.last_transition_time) == ("False", "Invalid", LATER)

    def test_time_stays_when_only_words_change(self) -> None:
        first = with_condition((), ACCEPTED, "False", "Invalid", "a", now=NOW, generation=1)
        (again,) = with_condition(first, ACCEPTED, "False", "Unknown", "b", now=LATER, generation=2)
        assert (again.reason, again.message, again.observed_generation) == ("Unknown", "b", 2)
        assert again.last_transition_time == NOW

    def test_the_same_again_is_equal_so_that_nothing_is_written(self) -> None:
        first = with_condition((), ACCEPTED, "True", "Valid", "", now=NOW, generation=1)
        assert with_condition(first, ACCEPTED, "True", "Valid", "", now=LATER, generation=1) == first

    def test_others_and_their_order_stay(self) -> None:
        two = with_condition((), ACCEPTED, "True", "Valid", "", now=NOW)
        two = with_condition(two, HEALTHY, "Unknown", "NoData", "", now=NOW)
        after = with_condition(two, ACCEPTED, "False", "Invalid", "", now=LATER)
        assert [item.type for item in after] == [ACCEPTED, HEALTHY]
        assert after[1] is two[1]

    def test_a_message_fits_the_object(self) -> None:
        (made,) = with_condition((), ACCEPTED, "True", "Valid", "x" * 10_000, now=NOW)
        assert len(made.message) == 4096


class TestWritten:
    def test_is_camel_case_without_what_is_unknown(self) -> None:
        status = ExperimentStatus(
            observed_generation=3,
            leader=Leader(epoch=7, identity="abmesh-0"),
            phase="Progressing",
            last_seen_spec_weights={"a": 95, "b": 5},
            stage=StageStatus(index=2, since=NOW),
            ranges={"a": ((0, 9500),), "b": ((9500, 10_000),)},
        )
        assert status.written() == {
            "observedGeneration": 3,
            "leader": {"epoch": 7, "identity": "abmesh-0"},
            "phase": "Progressing",
            "ranges": {"a": [[0, 9500]], "b": [[9500, 10000]]},
            "lastSeenSpecWeights": {"a": 95, "b": 5},
            "stage": {"index": 2, "since": "2026-12-01T03:00:00Z"},
            "conditions": [],
        }
        assert ExperimentStatus.model_validate(status.written()) == status


class TestWeights:
    def test_percentages_and_points_undo_each_other(self) -> None:
        every = {str(weight): weight for weight in range(10_001)}
        assert points(percentages(every)) == every
        assert percentages({"a": 9000, "b": 25}) == {"a": 90, "b": 0.25}

    def test_what_is_no_weight_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"not a weight: b 33\.333"):
            points({"a": 1, "b": 33.333})

    def test_the_candidates_is_for_people(self) -> None:
        assert candidate_weight({"a": 8750, "b": 1250}, "b") == "12.5%"
