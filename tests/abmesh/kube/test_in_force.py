"""What is served follows from spec and status alone, and an edit moves as few users as it can."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from abmesh.experiment.bucketing import Ranges, initial_ranges, reallocate, width
from abmesh.experiment.names import BUCKETS
from abmesh.kube.in_force import edited, experiment_in_force, in_force
from abmesh.kube.objects import parse, read_status
from abmesh.kube.spec import ExperimentSpec
from abmesh.kube.status import ExperimentStatus, percentages
from tests.abmesh.kube.specs import PLAIN, item, labels, specs, weights


def spec_of(shown: dict[str, float]) -> ExperimentSpec:
    variants = [
        {"name": name, "weight": weight, "control": place == 0, "backend": {"service": "llm", "port": 80}}
        for place, (name, weight) in enumerate(shown.items())
    ]
    return parse(item(PLAIN, variants=variants)).spec


def status_of(ranges: Ranges, seen: dict[str, float]) -> ExperimentStatus:
    told = {name: [list(part) for part in parts] for name, parts in ranges.items()}
    of_ranges = percentages({name: width(parts) for name, parts in ranges.items()})
    status = {"ranges": told, "lastSeenSpecWeights": seen, "weights": of_ranges}
    found = read_status({**item(), "status": status})
    assert found is not None
    return found


def moved(before: Ranges, after: Ranges) -> int:
    owner = {bucket: name for name, parts in before.items() for part in parts for bucket in range(*part)}
    return sum(owner[bucket] != name for name, parts in after.items() for part in parts for bucket in range(*part))


names = st.lists(labels, min_size=2, max_size=4, unique=True)


@st.composite
def shown(draw: st.DrawFn) -> dict[str, float]:
    chosen = draw(names)
    return dict(zip(chosen, draw(weights(len(chosen))), strict=True))


@st.composite
def histories(draw: st.DrawFn) -> tuple[dict[str, float], Ranges]:
    """A spec's weights, and the ranges that some steps led to."""
    first = draw(shown())
    ranges: Ranges = initial_ranges(spec_of(first).weights)
    for _ in range(draw(st.integers(0, 3))):
        step = dict(zip(first, draw(weights(len(first))), strict=True))
        ranges = reallocate(ranges, spec_of(step).weights)
    return first, ranges


@given(specs())
def test_without_a_status_it_is_the_spec(spec: dict[str, Any]) -> None:
    parsed = parse(item(spec))
    for status in (None, ExperimentStatus()):
        found = in_force(parsed.spec, status)
        assert found.weights == parsed.spec.weights
        assert found.ranges == initial_ranges(parsed.spec.weights)
        assert list(found.weights) == [variant.name for variant in parsed.spec.variants]


@given(histories())
def test_a_status_that_has_seen_the_spec_holds(history: tuple[dict[str, float], Ranges]) -> None:
    first, ranges = history
    found = in_force(spec_of(first), status_of(ranges, first))
    assert found.ranges == ranges
    assert found.weights == {name: width(parts) for name, parts in ranges.items()}


@given(histories(), st.data())
def test_an_edit_holds_and_moves_the_fewest(history: tuple[dict[str, float], Ranges], data: st.DataObject) -> None:
    first, ranges = history
    wanted = dict(zip(first, data.draw(weights(len(first))), strict=True))
    spec, status = spec_of(wanted), status_of(ranges, first)
    found = in_force(spec, status)
    if not edited(spec, status):
        assert wanted == first
        return
    assert found.weights == spec.weights
    assert {name: width(parts) for name, parts in found.ranges.items()} == spec.weights
    fewest = sum(max(0, weight - width(ranges[name])) for name, weight in spec.weights.items())
    assert moved(ranges, found.ranges) == fewest


@given(histories(), shown())
def test_other_variants_are_an_edit(history: tuple[dict[str, float], Ranges], other: dict[str, float]) -> None:
    first, ranges = history
    spec = spec_of(other)
    found = in_force(spec, status_of(ranges, first))
    if first.keys() != other.keys():
        assert found.weights == spec.weights
    assert sum(found.weights.values()) == BUCKETS
    assert sorted(found.ranges) == sorted(other)
    assert min(part for parts in found.ranges.values() for part in parts)[0] == 0


@given(histories(), st.randoms())
def test_the_order_of_variants_is_no_edit(history: tuple[dict[str, float], Ranges], random: Any) -> None:
    first, ranges = history
    mixed = list(first.items())
    random.shuffle(mixed)
    found = in_force(spec_of(dict(mixed)), status_of(ranges, first))
    assert found.ranges == ranges


@given(histories())
def test_ranges_that_do_not_cover_are_none(history: tuple[dict[str, float], Ranges]) -> None:
    first, ranges = history
    status = status_of({name: parts[1:] for name, parts in ranges.items()}, first)
    status = status.model_copy(update={"weights": percentages(spec_of(first).weights)})
    assert in_force(spec_of(first), status).ranges == initial_ranges(spec_of(first).weights)


def test_weights_without_ranges_are_fitted_to_the_first_ones() -> None:
    status = ExperimentStatus(
        weights={"model-a": 60, "model-b": 40}, last_seen_spec_weights={"model-a": 95, "model-b": 5}
    )
    found = in_force(parse(item()).spec, status)
    assert found.weights == {"model-a": 6000, "model-b": 4000}
    assert found.ranges == {"model-a": ((0, 6000),), "model-b": ((6000, 10_000),)}


def test_a_status_that_never_saw_weights_gives_way_to_the_spec() -> None:
    status = ExperimentStatus(ranges={"model-a": ((0, 6000),), "model-b": ((6000, 10_000),)})
    assert in_force(parse(item()).spec, status).weights == {"model-a": 9500, "model-b": 500}


def test_an_object_becomes_the_experiment_in_force() -> None:
    status = {
        "ranges": {"model-a": [[0, 2500], [5000, 10_000]], "model-b": [[2500, 5000]]},
        "lastSeenSpecWeights": {"model-a": 95, "model-b": 5},
    }
    found = experiment_in_force({**item(), "status": status})
    assert found.name == "llm/chat"
    assert found.weights == {"model-a": 7500, "model-b": 2500}
    assert found.effective_ranges == {"model-a": ((0, 2500), (5000, 10_000)), "model-b": ((2500, 5000),)}
    assert found.cells[2500].variant == "model-b"
