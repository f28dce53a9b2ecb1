"""New weights from old ones."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abmesh.experiment.errors import UnknownName, WeightsError
from abmesh.experiment.weights import complete, move_candidate
from tests.abmesh.experiment.documents import weights_of

NAMES = ("a", "b", "c", "d", "e")

some_weights = st.integers(2, 5).flatmap(weights_of).map(lambda weights: dict(zip(NAMES, weights, strict=False)))


class TestComplete:
    def test_one_unnamed_variant_takes_the_rest(self) -> None:
        assert complete({"a": 9000, "b": 1000}, "a", {"b": 2500}) == {"a": 7500, "b": 2500}
        assert complete({"a": 9000, "b": 1000}, "a", {"a": 2500}) == {"a": 2500, "b": 7500}

    def test_of_several_the_control_takes_the_rest(self) -> None:
        assert complete({"a": 8000, "b": 1000, "c": 1000}, "a", {"b": 2500}) == {"a": 6500, "b": 2500, "c": 1000}

    @pytest.mark.parametrize(
        ("named", "message"),
        [
            ({}, "no weight is given; write VARIANT=PERCENT"),
            ({"b": 10_001}, "at most 100; found b 100.01 \\+ c 10 = 110.01"),
            ({"a": 5000, "b": 4000, "c": 500}, "exactly 100; found a 50 \\+ b 40 \\+ c 5 = 95"),
            ({"a": 5000}, "exactly 100; found a 50 \\+ b 10 \\+ c 10 = 70"),
            ({"b": 9500}, "at most 100; found b 95 \\+ c 10 = 105"),
        ],
    )
    def test_a_sum_that_misses_100_is_shown(self, named: Mapping[str, int], message: str) -> None:
        with pytest.raises(WeightsError, match=message):
            complete({"a": 8000, "b": 1000, "c": 1000}, "a", named)

    def test_an_unknown_variant_is_named(self) -> None:
        with pytest.raises(UnknownName, match="no variant named 'z'; there is: a, b"):
            complete({"a": 9000, "b": 1000}, "a", {"z": 1})

    @given(some_weights, st.data())
    def test_names_keep_their_weight_and_the_sum_is_100_or_it_is_refused(
        self, weights: dict[str, int], data: st.DataObject
    ) -> None:
        control = data.draw(st.sampled_from(sorted(weights)))
        named = data.draw(st.dictionaries(st.sampled_from(sorted(weights)), st.integers(0, 10_000), min_size=1))
        try:
            result = complete(weights, control, named)
        except WeightsError:
            free = [name for name in weights if name not in named]
            fixed = sum(named.values())
            if len(free) > 1:
                fixed += sum(weights[name] for name in free if name != control)
            if len(free) == 1 or control in free:
                assert fixed > 10_000
            else:
                assert fixed + (weights[control] if control in free else 0) != 10_000
            return
        assert list(result) == list(weights)
        assert sum(result.values()) == 10_000
        assert min(result.values()) >= 0
        assert all(result[name] == weight for name, weight in named.items())
        changed = [name for name in weights if name not in named and result[name] != weights[name]]
        assert len(changed) <= 1


class TestMoveCandidate:
    def test_takes_from_the_control_first_then_from_the_last(self) -> None:
        weights = {"a": 5000, "b": 3000, "c": 1000, "d": 1000}
        assert move_candidate(weights, "a", "b", 5000) == {"a": 3000, "b": 5000, "c": 1000, "d": 1000}
        assert move_candidate(weights, "a", "b", 8500) == {"a": 0, "b": 8500, "c": 1000, "d": 500}
        assert move_candidate(weights, "a", "b", 10_000) == {"a": 0, "b": 10_000, "c": 0, "d": 0}

    def test_gives_back_to_the_control(self) -> None:
        assert move_candidate({"a": 5000, "b": 3000, "c": 2000}, "a", "b", 0) == {"a": 8000, "b": 0, "c": 2000}

    @given(some_weights, st.data())
    def test_reaches_the_target_and_moves_nothing_else_than_it_must(
        self, weights: dict[str, int], data: st.DataObject
    ) -> None:
        control, candidate = data.draw(st.permutations(sorted(weights)))[:2]
        target = data.draw(st.integers(0, 10_000))
        result = move_candidate(weights, control, candidate, target)
        assert list(result) == list(weights)
        assert result[candidate] == target
        assert sum(result.values()) == 10_000
        assert min(result.values()) >= 0
        moved = sum(abs(result[name] - weights[name]) for name in weights)
        assert moved == 2 * abs(target - weights[candidate])
        others = [name for name in weights if name not in (control, candidate)]
        if result[control] > 0:
            assert all(result[name] == weights[name] for name in others)
