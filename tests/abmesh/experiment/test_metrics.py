"""Which metrics there are, what each is made of, and what an experiment lacks for one."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abmesh.experiment import metrics
from abmesh.experiment.limits import missing_for
from abmesh.experiment.metrics import THUMBS_DOWN, THUMBS_UP, available, find, taken

EVENTS = ("click", "purchase", "continuation", THUMBS_UP, THUMBS_DOWN, "a", "a_value", "a_rate", "a_value_mean")


@st.composite
def declarations(draw: st.DrawFn) -> dict[str, Any]:
    """What an experiment declares, as :func:`available` takes it."""
    events = draw(st.lists(st.sampled_from(EVENTS), unique=True))
    valued = [event for event in events if draw(st.booleans())]
    return {"events": events, "valued": valued, "priced": draw(st.booleans()), "sessions": draw(st.booleans())}


names = st.sampled_from(
    [
        *metrics.MEASURED,
        *metrics.COSTS,
        metrics.THUMBS.name,
        *(of(event).name for event in EVENTS for of in metrics.OF_EVENTS.values()),
    ]
)


@given(declarations())
def test_what_an_experiment_measures_is_found_by_its_name(declared: dict[str, Any]) -> None:
    here = available(**declared)
    assert set(metrics.MEASURED) <= set(here)
    for name, metric in here.items():
        assert metric.name == name
        assert find(name) == metric


@given(names, declarations())
def test_a_metric_is_measured_once_what_it_lacks_is_declared(name: str, declared: dict[str, Any]) -> None:
    for _ in range(3):  # an event, its value and a cookie
        if name in available(**declared):
            return
        missing = missing_for(name, declared["events"], declared["valued"])
        if "price" in missing:
            declared["priced"] = True
        elif "issue_cookie" in missing:
            declared["sessions"] = True
        elif missing.startswith("it needs the events"):
            declared["events"] = [*declared["events"], THUMBS_UP, THUMBS_DOWN]
        elif missing.startswith("it needs an event "):
            declared["events"] = [*declared["events"], missing.rpartition(" ")[2]]
        else:
            assert missing.startswith("it needs a value on the event ")
            declared["valued"] = [*declared["valued"], missing.rpartition(" ")[2]]
    assert name in available(**declared)


@given(st.text() | st.from_regex(r"[a-z_]{0,8}(_rate|_per_session|_value_mean|_value_per_request)", fullmatch=True))
def test_any_text_is_a_metrics_name_or_none(text: str) -> None:
    metric = find(text)
    assert metric is None or metric.name == text
    assert metrics.event_of(text) == "" or metric is not None


@pytest.mark.parametrize("name", ["_rate", "Click_rate", "1_rate", "a b_rate", "click", "latency", "x" * 64 + "_rate"])
def test_what_no_event_can_be_called_has_no_metric(name: str) -> None:
    assert find(name) is None


@given(names)
def test_a_metric_is_a_ratio_of_amounts_or_a_quantile(name: str) -> None:
    metric = find(name)
    assert metric is not None
    assert bool(metric.parts) == bool(metric.per) == (metric.quantile is None)
    assert not metric.share or metric.unit == "share"


def test_no_ending_of_an_events_metrics_ends_with_another() -> None:
    endings = tuple(metrics.OF_EVENTS)
    assert [(a, b) for a in endings for b in endings if a != b and a.endswith(b)] == []


def test_an_events_rate_cannot_have_the_name_of_a_built_in_metric() -> None:
    assert {event: taken(event) for event in ("error", "refusal", "cache", "click", "thumbs_up")} == {
        "error": "error_rate",
        "refusal": "refusal_rate",
        "cache": "cache_rate",
        "click": None,
        "thumbs_up": None,
    }


def test_only_some_metrics_have_a_fixed_direction_of_harm() -> None:
    more, less, unsure = (
        {name for name in (*metrics.MEASURED, *metrics.COSTS) if find(name).more_is_better is way}  # type: ignore[union-attr]  # all are found
        for way in (True, False, None)
    )
    assert more == {"tokens_per_second"}
    assert unsure == {"input_tokens_mean", "output_tokens_mean", "refusal_rate", "cache_rate"}
    assert {name.partition("_")[0] for name in less} == {"error", "latency", "ttft", "cost"}


@pytest.mark.parametrize(
    ("event", "way"),
    [("click", True), ("conversion", True), (THUMBS_UP, True), (THUMBS_DOWN, False), ("complaint", None)],
)
def test_no_events_name_but_the_well_known_ones_says_whether_more_is_better(event: str, way: bool | None) -> None:
    assert {of(event).more_is_better for of in metrics.OF_EVENTS.values()} == {way}


def test_thumbs_are_the_net_score() -> None:
    assert dict(metrics.THUMBS.parts) == {"events:thumbs_up": 1, "events:thumbs_down": -1}
    assert metrics.THUMBS.per == ("events:thumbs_up", "events:thumbs_down")
    assert metrics.THUMBS.signed
