from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.evidence.parse import parse
from experiment.errors import SourceError

REAL = Path(__file__).with_name("envoy_stats.json")


def _answer(*stats: Any) -> str:
    return json.dumps({"stats": list(stats)})


def test_a_real_envoys_answer_becomes_counts() -> None:
    sample = parse(REAL.read_bytes())
    counts = sample.counts("chat-model")
    by_code: dict[tuple[str, int], int] = {}
    for (variant, _, code), count in counts.requests.items():
        by_code[variant, code] = by_code.get((variant, code), 0) + count
    stats = json.loads(REAL.read_text())["stats"]
    for variant in ("model-a", "model-b"):
        prefix = f"abmesh.requests.experiment.chat-model.variant.{variant}."
        named = [item for item in stats if item.get("name", "").startswith(prefix)]
        assert named
        assert sum(count for (name, _), count in by_code.items() if name == variant) == sum(x["value"] for x in named)
    assert counts.duration_ms["model-a", 0] == 4550
    assert sum(counts.bins.values()) == sum(counts.requests.values())
    assert sample.uptime == 26
    assert sample.ignored == 3  # unassigned traffic, by code


def test_names_mean_what_the_contract_says() -> None:
    sample = parse(
        _answer(
            {"name": "abmesh.requests.experiment.e-1.variant.v-2.slice.7.code.200", "value": 3},
            {"name": "abmesh.requests.experiment.e-1.variant.v-2.slice.7.code.0", "value": 1},
            {"name": "abmesh.duration_ms.experiment.e-1.variant.v-2.slice.7", "value": 55},
            {
                "histograms": {
                    "details": [
                        {
                            "name": "abmesh.duration.experiment.e-1.variant.v-2.group.9",
                            "totals": [{"lower_bound": 3.1, "width": 0.1, "count": 4}],
                        }
                    ]
                }
            },
        )
    )
    counts = sample.counts("e-1")
    assert counts.requests == {("v-2", 7, 200): 3, ("v-2", 7, 0): 1}
    assert counts.duration_ms == {("v-2", 7): 55}
    assert counts.bins == {("v-2", 9, 3.1, 0.1): 4}
    assert sample.uptime is None
    assert not sample.counts("other")


@pytest.mark.parametrize(
    "name",
    [
        "abmesh.requests.experiment.e.variant.v.slice..code.200",  # an override has no slice
        "abmesh.requests.experiment.e.variant.v.slice.7.code.200.more.1",
        "abmesh.requests.experiment.a.b.variant.v.slice.7.code.200",
        "abmesh.requests.experiment.e.variant.v.slice.\u0667.code.200",
        "abmesh.unassigned.route.r.code.200",
        "abmesh.something_else",
    ],
)
def test_what_is_no_evidence_is_counted_and_left_out(name: str) -> None:
    sample = parse(_answer({"name": name, "value": 1}))
    assert sample.ignored == 1
    assert not sample.experiments


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not JSON"),
        ("<html>", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", '"stats"'),
        ('{"stats": {}}', '"stats"'),
        (_answer(3), "not an object"),
        (_answer({"value": 3}), "no name"),
        (_answer({"name": "abmesh.requests.experiment.e.variant.v.slice.7.code.200", "value": -1}), "not a count"),
        (_answer({"name": "abmesh.requests.experiment.e.variant.v.slice.7.code.200", "value": 2**64}), "not a count"),
        (_answer({"name": "abmesh.requests.experiment.e.variant.v.slice.7.code.200", "value": True}), "not a count"),
        (_answer({"name": "server.uptime", "value": "x"}), "not a count"),
        (_answer({"histograms": 3}), "histograms"),
        (_answer({"histograms": {"details": 3}}), "detailed"),
        (_answer({"histograms": {"details": [{"name": "abmesh.duration.experiment.e.variant.v.group.1"}]}}), "bins"),
    ],
)
def test_an_answer_that_is_none_is_a_typed_error(text: str, says: str) -> None:
    with pytest.raises(SourceError, match=says):
        parse(text)


@pytest.mark.parametrize("bound", ["x", None, -1, True, 10**400])
def test_a_bin_with_an_impossible_bound_is_a_typed_error(bound: object) -> None:
    name = "abmesh.duration.experiment.e.variant.v.group.1"
    totals = [{"lower_bound": bound, "width": 1, "count": 1}]
    with pytest.raises(SourceError, match="bound"):
        parse(_answer({"histograms": {"details": [{"name": name, "totals": totals}]}}))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["stats", "name", "value", "histograms", "details", "totals", "lower_bound", "width", "count"]
            ),
            inner
            | st.sampled_from(
                [
                    "abmesh.requests.experiment.e.variant.v.slice.7.code.200",
                    "abmesh.duration.experiment.e.variant.v.group.1",
                    "server.uptime",
                ]
            ),
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(JSON)
def test_no_json_makes_it_crash(value: object) -> None:
    for answer in (value, {"stats": value}, {"stats": [value]}, {"stats": [{"histograms": {"details": [value]}}]}):
        try:
            parse(json.dumps(answer))
        except SourceError:
            continue


@given(st.binary(max_size=200) | st.text(max_size=200))
def test_no_bytes_make_it_crash(text: str | bytes) -> None:
    with contextlib.suppress(SourceError):
        parse(text)
