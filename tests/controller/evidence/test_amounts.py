"""Envoy's statistics of tokens, events and first tokens become metrics."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from abmesh.experiment import metrics
from abmesh.experiment.parts import Price
from controller.codec.evidence import pack, unpack
from controller.evidence.columns import Parser
from controller.evidence.parse import parse
from controller.evidence.strata import denominator, metric_slices, numerator
from controller.evidence.summary import SegmentEvidence, VariantEvidence
from controller.evidence.summing import summarize

WHO = "experiment.chat.variant.b"
TEXT = f"""\
abmesh.requests.{WHO}.slice.1.code.200: 90
abmesh.requests.{WHO}.slice.1.code.503: 6
abmesh.requests.{WHO}.slice.2.code.404: 3
abmesh.requests.{WHO}.slice.2.code.0: 1
abmesh.duration_ms.{WHO}.slice.1: 9000
abmesh.cached.{WHO}.slice.1: 10
abmesh.broken.{WHO}.slice.1: 2
abmesh.left.{WHO}.slice.1: 8
abmesh.failed.{WHO}.slice.1: 7
abmesh.failed.{WHO}.slice.2: 3
abmesh.failed_ms.{WHO}.slice.1: 500
abmesh.ttft_ms.{WHO}.slice.1: 800
abmesh.first_tokens.{WHO}.slice.1: 80
abmesh.input_tokens.{WHO}.slice.1: 4000
abmesh.output_tokens.{WHO}.slice.1: 2000
abmesh.usage.{WHO}.slice.1: 40
abmesh.streamed_tokens.{WHO}.slice.1: 1000
abmesh.generation_ms.{WHO}.slice.1: 20000
abmesh.streams.{WHO}.slice.1: 30
abmesh.refusals.{WHO}.slice.1: 5
abmesh.sessions.{WHO}.slice.1: 20
abmesh.events.{WHO}.slice.1.event.click: 12
abmesh.session_events.{WHO}.slice.1.event.click: 8
abmesh.events.{WHO}.slice.2.event.thumbs_up: 3
abmesh.events.{WHO}.slice.1.event.thumbs_down: 1
abmesh.event_value.{WHO}.slice.1.event.purchase: 25500
abmesh.valued_events.{WHO}.slice.1.event.purchase: 2
abmesh.requests_by_segment.{WHO}.segment.power.group.3.code.200: 30
abmesh.events_by_segment.{WHO}.segment.power.group.3.event.click: 9
abmesh.output_tokens_by_segment.{WHO}.segment.power.group.3: 600
abmesh.usage_by_segment.{WHO}.segment.power.group.3: 12
abmesh.ttft.{WHO}.group.0:
  totals=10,1:80
  intervals=
  summary=P0(nan,10)
abmesh.duration.{WHO}.group.0:
  totals=5,0.1:8, 100,10:82
  intervals=
  summary=P0(nan,5)
abmesh.failed_duration.{WHO}.group.0:
  totals=5,0.1:8, 100,10:3, 900,10:1
  intervals=
  summary=P0(nan,5)
abmesh.failed_duration_by_segment.{WHO}.segment.power.group.3:
  totals=100,10:4
  intervals=
  summary=P0(nan,5)
abmesh.duration_by_segment.{WHO}.segment.power.group.3:
  totals=100,10:30
  intervals=
  summary=P0(nan,100)
abmesh.ttft_by_segment.{WHO}.segment.power.group.3:
  totals=10,1:29
  intervals=
  summary=P0(nan,10)
abmesh.unassigned.route.unmatched.code.200: 4
server.uptime: 60
"""
PRICE = Price(input=0.5, output=2.0)


@pytest.fixture(params=["lines", "columns"])
def evidence(request: pytest.FixtureRequest) -> VariantEvidence:
    sample = parse(TEXT) if request.param == "lines" else Parser().parse(TEXT.encode())
    assert sample.ignored == 1
    return summarize(sample.counts("chat"), ("b",), {"b": PRICE})["b"]


VALUES = {
    "error_rate": (6 + 2) / 99,
    "latency_mean": (9000 - 500) / (90 - 7 - 3),
    "ttft_mean": 10.0,
    "input_tokens_mean": 100.0,
    "output_tokens_mean": 50.0,
    "tokens_per_second": 50.0,
    "refusal_rate": 5 / 99,
    "cache_rate": 10 / 99,
    "cost_per_request": (4000 * 0.5 + 2000 * 2.0) / 1e6 / 99,
    "cost_per_success": (4000 * 0.5 + 2000 * 2.0) / 1e6 / (90 - 2 - 8),
    "click_rate": 12 / 99,
    "click_per_session": 8 / 20,
    "purchase_value_mean": 12.75,
    "purchase_value_per_request": 25.5 / 99,
    "thumbs": 0.5,
}


@pytest.mark.parametrize("name", VALUES)
def test_every_metric_is_its_numerator_over_its_denominator(evidence: VariantEvidence, name: str) -> None:
    metric = metrics.find(name)
    assert metric is not None
    assert numerator(evidence, metric) / denominator(evidence, metric) == pytest.approx(VALUES[name])


@pytest.mark.parametrize("name", VALUES)
def test_slices_add_up_to_the_whole(evidence: VariantEvidence, name: str) -> None:
    metric = metrics.find(name)
    assert metric is not None
    slices = metric_slices(evidence, 50, metric)
    assert slices.n.sum() == pytest.approx(denominator(evidence, metric))
    assert slices.y.sum() == pytest.approx(numerator(evidence, metric))


def test_segments_are_kept_apart(evidence: VariantEvidence) -> None:
    amounts = {
        "events:click": 9,
        "output_tokens": 600,
        "usage": 12,
        "succeeded": 30,
        "cost": 600 * 2000,
    }
    bins = ({(100.0, 10.0): 30}, {(10.0, 1.0): 29}, {(100.0, 10.0): 4})
    group = SegmentEvidence({200: 30}, amounts, *bins)
    assert evidence.segments == {"power": replace(group, groups={3: group})}
    assert evidence.ttft == {0: {(10.0, 1.0): 80}}


def test_latencies_that_are_compared_are_those_of_answers_that_did_not_fail(evidence: VariantEvidence) -> None:
    assert evidence.groups == {0: {(5.0, 0.1): 8, (100.0, 10.0): 82}}
    assert evidence.histograms("duration") == {0: {(100.0, 10.0): 79}}
    assert (evidence.mean_ms, evidence.bins) == (9000 / 90, evidence.groups[0])


def test_an_envoy_rendered_before_failures_were_told_apart_has_every_duration_compared() -> None:
    older = re.sub(r"abmesh\.failed_duration.*\n(?:  .*\n)+|abmesh\.failed.*\n", "", TEXT)
    found = summarize(parse(older).counts("chat"), ("b",))["b"]
    assert found.histograms("duration") == found.groups
    assert found.amount(metrics.SERVED_MS) / found.amount(metrics.SERVED) == 9000 / 90


def test_evidence_comes_back_from_a_packed_text(evidence: VariantEvidence) -> None:
    assert unpack(pack({"b": evidence})) == {"b": evidence}


def test_a_segment_is_all_of_its_groups_and_what_an_older_envoy_counted_without_groups() -> None:
    text = "\n".join([*TEXT.splitlines(), *_blocks(".group.7"), *_blocks("")])
    sample = parse(text)
    assert sample == Parser().parse(text.encode())
    found = summarize(sample.counts("chat"), ("b",), {"b": PRICE})["b"].segments["power"]
    assert set(found.groups) == {3, 7}
    assert found.groups[3] == found.groups[7]
    assert (found.codes, found.groups[3].codes) == ({200: 90}, {200: 30})
    assert found.durations == {(100.0, 10.0): 90}
    assert found.amount(metrics.OUTPUT_TOKENS) == 3 * 600
    evidence = {"b": VariantEvidence(segments={"power": found})}
    assert unpack(pack(evidence)) == evidence


def _blocks(group: str) -> list[str]:
    """What the text has of segments, once more in another group, or without any."""
    found = re.findall(r"^abmesh\.\w+_by_segment\..*:.*\n(?:  .*\n)*", TEXT, re.MULTILINE)
    return [line for block in found for line in block.replace(".group.3", group).splitlines()]


def test_names_that_only_resemble_ours_are_ignored() -> None:
    strange = (
        f"abmesh.requests_by_segment.{WHO}.slice.1.code.200: 1\n"
        f"abmesh.requests.{WHO}.segment.power.group.3.code.200: 1\n"
        f"abmesh.usage.{WHO}.slice.1.event.click: 1\n"
        f"abmesh.events.{WHO}.slice.1.event.Click: 1\n"
        f"abmesh.tokens.{WHO}.slice.1: 1\n"
    )
    assert parse(strange).ignored == 5
    assert not parse(strange).experiments
