from __future__ import annotations

from controller.decision.simpson import paradoxes
from controller.decision.verdicts import Paradox
from controller.wording.verdicts import paradox_text
from tests.controller.decision.support import STATE, arm, evidence_of, stage


def test_a_metric_that_pooled_compares_the_other_way_is_warned_of() -> None:
    # Errors tripled overnight while the candidate's share grew: better in each stage, worse pooled.
    early = stage(arm(9000, 180), arm(1000, 10), weight=1000)
    found = paradoxes(evidence_of(arm(5000, 500), arm(5000, 400), past=[early]))
    assert found == (Paradox("error_rate", "stages"),)
    assert "error_rate compares model-b with model-a one way in every stage" in paradox_text(found[0], STATE)


def test_latency_is_warned_of_as_well() -> None:
    early = stage(arm(9000, ms=100), arm(1000, ms=90), weight=1000)
    found = paradoxes(evidence_of(arm(5000, ms=300), arm(5000, ms=270), past=[early]))
    assert found == (Paradox("latency_mean", "stages"),)


def test_stages_that_agree_and_a_single_stage_are_not() -> None:
    early = stage(arm(9000, 180), arm(1000, 40), weight=1000)
    assert paradoxes(evidence_of(arm(5000, 100), arm(5000, 200), past=[early])) == ()
    assert paradoxes(evidence_of(arm(5000, 100), arm(5000, 200))) == ()
