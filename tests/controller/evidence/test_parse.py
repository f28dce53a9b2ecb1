from __future__ import annotations

import contextlib
import gzip
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abmesh.experiment.errors import SourceError
from controller.evidence.parse import Sample, parse
from tests.paths import ROOT

RECORDED = ROOT / "bench" / "recorded"
"""A real Envoy's answers at one moment, as text and as JSON; see bench/recording.py."""

HISTOGRAM = "abmesh.duration.experiment.e-1.variant.v-2.group.9"
REQUESTS = "abmesh.requests.experiment.e.variant.v.slice.7.code.200"
TAIL = "  intervals=\n  summary=P0(nan,1) P100(nan,2)\n"


def _read(name: str) -> bytes:
    return gzip.decompress((RECORDED / name).read_bytes())


def _as_plain(sample: Sample) -> dict[tuple[object, ...], int]:
    """Every count, by experiment, what is counted, and key; bounds as Envoy's text rounds them."""
    found: dict[tuple[object, ...], int] = {}
    for name, counts in sample.experiments.items():
        found |= {(name, "requests", *key): count for key, count in counts.requests.items()}
        found |= {(name, amount, variant, slice_): count for (variant, slice_, amount), count in counts.amounts.items()}
        found |= {
            (name, variant, group, f"{lower:g}", f"{width:g}"): count
            for (variant, _, group, lower, width), count in counts.bins.items()
        }
    return found


def _json_as_plain(text: bytes) -> dict[tuple[object, ...], int]:
    """The same of an answer in JSON, which says every part by its name."""
    found: dict[tuple[object, ...], int] = {}
    for item in json.loads(text)["stats"]:
        for detail in item["histograms"]["details"] if "histograms" in item else ():
            _, _, _, experiment, _, variant, _, group = detail["name"].split(".")
            for bin_ in detail["totals"]:
                bounds = f"{bin_['lower_bound']:g}", f"{bin_['width']:g}"
                found[experiment, variant, int(group), *bounds] = bin_["count"]
        if item.get("name", "").startswith("abmesh."):
            _, kind, _, experiment, _, variant, *tags = item["name"].split(".")
            found[experiment, kind, variant, *map(int, tags[1::2])] = item["value"]
    return found


def test_a_real_envoys_text_means_what_its_json_means() -> None:
    sample = parse(_read("answer.txt.gz"))
    assert _as_plain(sample) == _json_as_plain(_read("answer.json.gz"))
    assert len(sample.experiments) == 10
    assert sum(sum(counts.requests.values()) for counts in sample.experiments.values()) == 40_000
    assert sum(sum(counts.bins.values()) for counts in sample.experiments.values()) == 40_000
    assert sample.uptime is not None
    assert sample.uptime > 0
    assert sample.ignored == 0


def test_names_mean_what_the_contract_says() -> None:
    sample = parse(
        "abmesh.requests.experiment.e-1.variant.v-2.slice.7.code.200: 3\n"
        "abmesh.requests.experiment.e-1.variant.v-2.slice.7.code.0: 1\n"
        "abmesh.duration_ms.experiment.e-1.variant.v-2.slice.7: 55\n"
        f"{HISTOGRAM}:\n  totals=3.1,0.1:4, 1.2e+06,100000:2\n{TAIL}"
    )
    counts = sample.counts("e-1")
    assert counts.requests == {("v-2", 7, 200): 3, ("v-2", 7, 0): 1}
    assert counts.amounts == {("v-2", 7, "duration_ms"): 55}
    assert counts.bins == {("v-2", "duration", 9, 3.1, 0.1): 4, ("v-2", "duration", 9, 1.2e6, 1e5): 2}
    assert sample.uptime is None
    assert not sample.counts("other")


def test_an_experiment_of_a_cluster_has_its_namespace_before_it() -> None:
    sample = parse(f"abmesh.requests.experiment.llm/e-1.variant.v-2.slice.7.code.200: 3\n{TAIL}")
    assert sample.counts("llm/e-1").requests == {("v-2", 7, 200): 3}
    assert not sample.counts("e-1")
    assert sample.ignored == 0


@pytest.mark.parametrize(
    "name",
    [
        "abmesh.requests.experiment.e.variant.v.slice..code.200",  # an override has no slice
        "abmesh.requests.experiment.a/b/c.variant.v.slice.7.code.200",
        "abmesh.requests.experiment.a.variant.v/w.slice.7.code.200",
        "abmesh.requests.experiment.e.variant.v.slice.7.code.200.more.1",
        "abmesh.requests.experiment.a.b.variant.v.slice.7.code.200",
        "abmesh.requests.experiment.e.variant.v.slice.\u0667.code.200",
        "abmesh.unassigned.route.r.code.200",
        "abmesh.something_else",
    ],
)
def test_statistics_that_are_not_evidence_are_counted_and_left_out(name: str) -> None:
    sample = parse(f"{name}: 1\nserver.uptime: 26\nserver.hot_restart_epoch: 2\n")
    assert sample.ignored == 1
    assert sample.uptime == 26
    assert sample.epoch == 2
    assert not sample.experiments


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "empty"),
        ("\n", "empty"),
        (b"\xff", "not text"),
        ("<html>", "not an Envoy statistic"),
        ('{"stats": []}', "not a count"),
        ('{"stats":[{"name":"server.uptime","value":26}]}', "not an Envoy statistic"),
        (f"{REQUESTS}: -1", "not a count"),
        (f"{REQUESTS}: {2**64}", "not a count"),
        (f"{REQUESTS}: {'1' * 5000}", "not a count"),
        (f"{REQUESTS}: 1.5", "not a count"),
        (f"{REQUESTS}: \u0667", "not a count"),
        (f"{REQUESTS}: ", "not a count"),
        ("server.uptime: x", "not a count"),
        (f"{HISTOGRAM}:\n", "detailed"),
        (f"{HISTOGRAM}:\nserver.uptime: 3", "detailed"),
        (f"{HISTOGRAM}: P0(nan,1) P25(nan,2)", "not a count"),
        (f"{HISTOGRAM}:\n  totals=1,1:x\n{TAIL}", "not a count"),
        (f"{HISTOGRAM}:\n  totals=1,1\n{TAIL}", "not a count"),
        ("  totals=1,1:1\n", "not an Envoy statistic"),
    ],
)
def test_text_that_is_not_an_answer_is_a_source_error(text: str | bytes, says: str) -> None:
    with pytest.raises(SourceError, match=says):
        parse(text)


@pytest.mark.parametrize("bound", ["x", "", "-1", "inf", "nan", "1e400", "1" * 400, "\u0667", "1_0"])
def test_a_bin_with_an_invalid_bound_is_a_source_error(bound: str) -> None:
    for bounds in (f"{bound},1", f"1,{bound}"):
        with pytest.raises(SourceError, match="bound"):
            parse(f"{HISTOGRAM}:\n  totals={bounds}:1\n{TAIL}")


@given(st.binary(max_size=200) | st.text(max_size=200))
def test_no_bytes_raise_anything_but_a_source_error(text: str | bytes) -> None:
    with contextlib.suppress(SourceError):
        parse(text)
