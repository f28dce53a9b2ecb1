from __future__ import annotations

from controller.codec.outlines import evidence_outline
from controller.evidence.counts import Counts
from controller.evidence.summary import SliceEvidence, VariantEvidence
from controller.evidence.summing import summarize

COUNTS = Counts(
    {("b", 1, 200): 90, ("b", 1, 503): 6, ("b", 2, 404): 4, ("b", 2, 0): 10, ("a", 1, 200): 7, ("gone", 1, 200): 9},
    {("b", 1, "duration_ms"): 9600, ("b", 2, "duration_ms"): 400, ("gone", 1, "duration_ms"): 1},
    {
        ("b", "duration", 0, 100.0, 10.0): 60,
        ("b", "duration", 1, 100.0, 10.0): 50,
        ("gone", "duration", 1, 1.0, 0.1): 2,
    },
)


def test_an_error_is_a_code_of_500_or_above_and_an_abort_is_neither() -> None:
    evidence = summarize(COUNTS, ("a", "b"))["b"]
    assert (evidence.requests, evidence.errors, evidence.aborted) == (100, 6, 10)
    assert evidence.error_rate == 0.06
    assert evidence.codes == {200: 90, 503: 6, 404: 4, 0: 10}


def test_the_mean_is_over_all_requests_whose_durations_are_in_the_sum() -> None:
    assert summarize(COUNTS, ("b",))["b"].mean_ms == 10_000 / 110


def test_slices_and_groups_stay_apart_for_variances() -> None:
    evidence = summarize(COUNTS, ("b",))["b"]
    assert evidence.slices == {
        1: SliceEvidence(96, 6, 0, 9600, {"succeeded": 90}),
        2: SliceEvidence(4, 0, 10, 400),
    }
    assert evidence.groups == {0: {(100.0, 10.0): 60}, 1: {(100.0, 10.0): 50}}
    assert evidence.bins == {(100.0, 10.0): 110}


def test_other_variants_are_left_out_and_variants_without_counts_are_empty() -> None:
    evidence = summarize(COUNTS, ("a", "new"))
    assert set(evidence) == {"a", "new"}
    assert evidence["new"] == VariantEvidence()
    assert evidence["new"].error_rate is None
    assert evidence["new"].mean_ms is None
    assert evidence_outline(evidence["new"])["p95_ms"] is None


def test_the_outline_has_the_numbers_of_a_decision() -> None:
    outline = evidence_outline(summarize(COUNTS, ("b",))["b"])
    assert outline["requests"] == 100
    assert outline["error_rate"] == 0.06
    assert outline["p50_ms"] == 105.0
