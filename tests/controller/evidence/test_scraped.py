"""What a Prometheus server's answer means."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abmesh.experiment.errors import SourceError
from abmesh.experiment.latencies import BOUNDS_MS, last_bin
from abmesh.inference.histogram import quantile
from controller.evidence.counts import Counts
from controller.evidence.scraped import ScrapedEnvoy, SeriesReader
from controller.evidence.vector import QueryResult
from tests.controller.scrapes import answer, sample, target
from tests.controller.support import NAME

COUNTS = Counts(
    {("model-a", 0, 200): 7, ("model-b", 49, 503): 1, ("model-b", 3, 0): 2},
    {
        ("model-a", 0, "duration_ms"): 1843,
        ("model-a", 0, "first_tokens"): 6,
        ("model-b", 3, "events:click"): 4,
        ("model-b", 3, "session_events:click"): 2,
        ("model-b", 3, "event_value:purchase"): 12_500,
        ("model-b", 3, "valued_events:purchase"): 1,
        ("model-b", 3, "generation_ms"): 10**12,
    },
    None,
    {
        ("model-a", "power", 200): 5,
        ("model-a", "power", "events:click"): 1,
        ("model-a", "other", "output_tokens"): 900,
    },
)


ONE_SLICE = {"experiment": NAME, "variant": "a", "slice": "0", "code": "200"}


def _read(text: str) -> dict[str, ScrapedEnvoy]:
    return SeriesReader().read(QueryResult(text))


def _one(series: list[dict[str, Any]]) -> ScrapedEnvoy:
    (found,) = _read(answer(series)).values()
    return found


def test_series_have_the_meaning_of_envoys_own_statistics() -> None:
    found = _one(target(COUNTS, uptime=77))
    assert found.error == ""
    assert found.sample is not None
    assert found.sample.experiments == {NAME: COUNTS}
    assert found.sample.uptime == 77


def test_every_target_is_one_envoy() -> None:
    other = Counts({("model-a", 0, 200): 70})
    found = _read(answer([*target(COUNTS, "a:1"), *target(other, "b:1"), *target(Counts(), "c:1")]))
    samples = {name: item.sample for name, item in found.items()}
    assert {name: it.counts(NAME) if it else None for name, it in samples.items()} == {
        "a:1": COUNTS,
        "b:1": other,
        "c:1": Counts(),
    }


def test_cached_meanings_change_no_result() -> None:
    reader, text = SeriesReader(), answer(target(COUNTS))
    assert reader.read(QueryResult(text)) == reader.read(QueryResult(text)) == _read(text)


def test_a_bucket_ends_where_the_last_of_envoys_bins_that_begin_in_it_does() -> None:
    """Envoy counts 105 ms, whose bin is 100 to 110, under the bound 100."""
    labels = {"experiment": NAME, "variant": "model-a", "group": "3"}
    cumulative = {"0.5": 1, "50": 1, "100": 5, "250": 5, "+Inf": 6}
    series = [sample("envoy_abmesh_duration_bucket", count, **labels, le=le) for le, count in cumulative.items()]
    found = _one([*target(Counts()), *series]).sample
    assert found is not None
    assert dict(found.counts(NAME).bins) == {
        ("model-a", "duration", 3, 0.0, 0.51): 1,
        ("model-a", "duration", 3, 51.0, 59.0): 4,
        ("model-a", "duration", 3, 260.0, 260.0): 1,
    }


def test_the_bounds_that_we_render_become_those_of_our_own_histograms() -> None:
    labels = {"experiment": NAME, "variant": "model-a", "segment": "power"}
    name = "envoy_abmesh_ttft_by_segment_bucket"
    bounds = [f"{last_bin(bound):g}" for bound in BOUNDS_MS]
    series = [sample(name, count, **labels, le=le) for count, le in enumerate([*bounds, "+Inf"], 1)]
    found = _one([*target(Counts()), *series]).sample
    assert found is not None
    uppers = [lower + width for _, _, _, lower, width in found.counts(NAME).bins]
    assert uppers[:-1] == pytest.approx(BOUNDS_MS)


@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=50), st.sampled_from((0.5, 0.9, 0.95, 0.99)))
def test_a_quantile_is_within_its_buckets_width(values: list[int], share: float) -> None:
    bounds = [float(f"{last_bin(bound):g}") for bound in BOUNDS_MS]
    labels = {"experiment": NAME, "variant": "model-a", "group": "0"}
    series = [
        sample("envoy_abmesh_duration_bucket", sum(_bin(value) <= bound for value in values), **labels, le=f"{bound:g}")
        for bound in bounds
    ]
    series.append(sample("envoy_abmesh_duration_bucket", len(values), **labels, le="+Inf"))
    found = _one([*target(Counts()), *series]).sample
    assert found is not None
    bins = {(lower, width): count for (_, _, _, lower, width), count in found.counts(NAME).bins.items()}
    value = quantile(bins, share)
    assert value is not None
    true = sorted(values)[max(0, -int(-share * len(values) // 1) - 1)]
    lower = max((bound for bound in (0, *BOUNDS_MS) if bound <= true), default=0)
    upper = min(bound for bound in BOUNDS_MS if bound > true)
    assert lower <= value <= upper


def test_hot_restarts_are_read_where_the_target_has_them() -> None:
    assert [_one(series).sample.epoch for series in (target(COUNTS), _hot(target(COUNTS)))] == [None, 2]  # type: ignore[union-attr]


def _hot(series: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [*series, sample("envoy_server_hot_restart_epoch", 2)]


def _bin(value: int) -> float:
    """Where Envoy's bin of a value begins."""
    unit: int = 10 ** max(0, len(str(value)) - 2)
    return float(value // unit * unit)


@pytest.mark.parametrize(
    ("series", "says"),
    [
        (target(COUNTS, up=0), "could not scrape"),
        ([sample("up", 1)], "envoy_server_uptime"),
        (target(COUNTS, up=2), "more than once"),
        ([sample("envoy_server_uptime", 5)], "does not scrape it"),
        (
            [
                *target(Counts()),
                sample("envoy_abmesh_requests", "NaN", **ONE_SLICE),
            ],
            "not a whole number: NaN",
        ),
        (
            [
                *target(Counts()),
                sample("envoy_abmesh_requests", "1.5", **ONE_SLICE),
            ],
            "not a whole number: 1.5",
        ),
        (
            [
                *target(Counts()),
                sample("envoy_abmesh_requests", "-1", **ONE_SLICE),
            ],
            "not a whole number: -1",
        ),
        (
            [
                *target(Counts()),
                sample("envoy_abmesh_ttft_bucket", 5, experiment=NAME, variant="a", group="0", le="10"),
                sample("envoy_abmesh_ttft_bucket", 4, experiment=NAME, variant="a", group="0", le="+Inf"),
            ],
            "decrease",
        ),
        (
            [
                *target(Counts()),
                sample("envoy_abmesh_ttft_bucket", 4, experiment=NAME, variant="a", group="0", le="+Inf"),
            ],
            "no buckets",
        ),
    ],
)
def test_an_envoy_with_invalid_series_gives_an_error(series: list[dict[str, Any]], says: str) -> None:
    found = _read(answer([*series, *target(COUNTS, "good:1")]))
    assert says in found["envoy-1:9901"].error
    assert found["envoy-1:9901"].sample is None
    assert found["good:1"].sample is not None


def test_statistics_that_are_not_evidence_are_counted_and_left_out() -> None:
    who = {"experiment": NAME, "variant": "model-a"}
    strange = [
        sample("envoy_abmesh_requests", 1, **who, slice="0"),
        sample("envoy_abmesh_requests", 1, **who, slice="x", code="200"),
        sample("envoy_abmesh_requests", 1, **who, slice="0", segment="power", code="200"),
        sample("envoy_abmesh_requests_by_segment", 1, **who, slice="0", code="200"),
        sample("envoy_abmesh_requests", 1, experiment="No.Label", variant="model-a", slice="0", code="200"),
        sample("envoy_abmesh_first_tokens", 1, **who, group="0"),
        sample("envoy_abmesh_duration_bucket", 1, **who, group="0", le="wide"),
        sample("envoy_abmesh_duration_bucket", 1, **who, group="0"),
        sample("envoy_abmesh_unknown", 1, **who, slice="0"),
        sample("something_else", 1),
    ]
    found = _one([*target(COUNTS), *strange]).sample
    assert found is not None
    assert found.experiments == {NAME: COUNTS}
    assert found.ignored == len(strange)


def test_large_counts_are_exact_even_if_written_with_exponents() -> None:
    who = {"experiment": NAME, "variant": "a"}
    found = _one(
        [
            *target(Counts()),
            sample("envoy_abmesh_output_tokens", "9007199254740992", **who, slice="0"),
            sample("envoy_abmesh_input_tokens", "1.25e+11", **who, slice="0"),
        ]
    ).sample
    assert found is not None
    assert found.counts(NAME).amounts == {("a", 0, "output_tokens"): 2**53, ("a", 0, "input_tokens"): 125 * 10**9}


def test_an_answer_without_series_has_no_targets() -> None:
    assert _read(answer([])) == {}
    assert _read('{"status": "success", "data": {"resultType": "vector", "result": [ ]}}') == {}


def test_spaces_and_escapes_are_read_as_json_has_them() -> None:
    text = json.dumps(json.loads(answer(target(COUNTS, 'odd "{[é'))), indent=2)
    assert _read(text)['odd "{[é'].sample is not None


def test_warnings_are_reported_and_infos_are_not() -> None:
    found = QueryResult(answer(target(COUNTS), warnings=["one of two stores did not answer"], infos=["a note"]))
    SeriesReader().read(found)
    assert found.warnings == ("one of two stores did not answer",)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "cannot parse its answer"),
        ("<html>", "cannot parse its answer"),
        ("[]", "cannot parse its answer"),
        ("null", "cannot parse its answer"),
        ('{"status":"success"}', "cannot parse its answer"),
        ('{"status":"error","errorType":"timeout","error":"query timed out"}', "query timed out"),
        ('{"status":"error"}', "no reason given"),
        ('{"status":"success","data":{"resultType":"scalar","result":[1,"2"]}}', "cannot parse its answer"),
        ('{"status":"success","data":{"resultType":"matrix","result":[]}}', "instant"),
        (answer([sample("up", 1)])[:-30], "cannot parse its answer"),
        (answer([sample("up", 1), sample("up", 1)]).replace("},{", "} {"), "comma"),
        (answer([sample("up", 1)]).replace('"up"', "5"), "cannot parse the labels"),
        (
            answer([sample("up", 1)]).replace('"metric":{', '"metric":[{').replace('"},"v', '"}],"v'),
            "cannot parse its answer",
        ),
        ('{"status":"success","data":{"resultType":"vector","result":[' + "[" * 100_000, "cannot parse its answer"),
    ],
)
def test_text_that_is_not_an_instant_vector_is_a_source_error(text: str, says: str) -> None:
    with pytest.raises(SourceError, match=says) as caught:
        _read(text)
    assert len(str(caught.value)) < 400


@given(st.integers(0, 2000), st.characters())
def test_a_damaged_answer_raises_nothing_else(place: int, character: str) -> None:
    text = answer(target(COUNTS))
    place %= len(text)
    try:
        _read(text[:place] + character + text[place + 1 :])
    except SourceError:
        return
