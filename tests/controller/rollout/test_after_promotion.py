"""The emergency stop after a promotion: how long, on what evidence, and only to a control that answers."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from abmesh.analysis.replay import replay
from controller.decision.probes import Probe
from controller.records import Cause, Kind, Phase
from controller.rollout import commands
from controller.rollout.tick import Outcome
from controller.settings import Settings
from tests.controller.support import DOCUMENT, NAME, World, world

ANALYSIS = "      analysis: {emergency_stop_after_promotion: 10m}\n"


def _promoted(folder: Path, text: str = DOCUMENT + ANALYSIS) -> World:
    """A world whose candidate was promoted by hand and has served all users well for a minute."""
    subject = world(folder, text)
    subject.tick()
    commands.promote(Settings(folder / "experiments.yaml", subject.folder), NAME, now=subject.now)
    for _ in range(12):
        _serve(subject)
    assert subject.phase() is Phase.PROMOTED
    return subject


def _serve(subject: World, *, bad: int = 0, probe: Probe | None = None) -> Outcome:
    """Five seconds of traffic to the candidate alone, then a tick."""
    subject.traffic.serve("model-b", 50)
    subject.traffic.serve("model-b", bad, code=503)
    subject.now += timedelta(seconds=5)
    probes = {} if probe is None else {NAME: probe}
    report = subject.reconciler.reconcile(subject.observe(), subject.now, subject.now, None, probes)
    assert not report.failures
    return report.outcomes[0]


def _probe(subject: World, **changes: int | str) -> Probe:
    return Probe(variant="model-a", at=subject.now, **{"answered": 1, "ms": 12.0, **changes})


def test_it_asks_for_a_probe_and_rolls_back_when_the_control_answers_it(tmp_path: Path) -> None:
    subject = _promoted(tmp_path)
    outcome = _serve(subject, bad=50)
    assert (outcome.decision.kind, outcome.decision.cause) == (Kind.HOLD, Cause.PROBING)
    assert outcome.probes is not None
    assert outcome.probes.variant == "model-a"
    outcome = _serve(subject, probe=_probe(subject))
    assert (outcome.decision.kind, outcome.decision.cause) == (Kind.ROLLBACK, Cause.HARMFUL)
    assert outcome.probes is None
    assert (subject.phase(), subject.weight()) == (Phase.ROLLED_BACK, 0)
    assert "all users go to the control, which answered a probe in 12 ms" in outcome.decision.reason
    assert [item.differences for item in replay(subject.journal()) if item.differences] == []


def test_users_stay_while_the_control_does_not_answer_or_cannot_be_asked(tmp_path: Path) -> None:
    subject = _promoted(tmp_path)
    _serve(subject, bad=50)
    for changes, says in (
        (
            {"answered": 0, "failed": 1, "problem": "http://m: status 503"},
            "did not answer a probe (http://m: status 503)",
        ),
        ({"answered": 0}, "model-a cannot be asked"),
    ):
        outcome = _serve(subject, probe=_probe(subject, **changes))
        assert (outcome.decision.kind, outcome.decision.cause) == (Kind.HOLD, Cause.NO_WAY_BACK)
        assert says in outcome.decision.reason
        assert outcome.probes is not None
    assert (subject.phase(), subject.weight()) == (Phase.PROMOTED, 10_000)


def test_an_old_probe_or_one_of_another_variant_says_nothing(tmp_path: Path) -> None:
    subject = _promoted(tmp_path)
    _serve(subject, bad=50)
    old = _probe(subject).model_copy(update={"at": subject.now - timedelta(minutes=1)})
    other = _probe(subject).model_copy(update={"variant": "model-b"})
    for probe in (old, other):
        assert _serve(subject, probe=probe).decision.cause is Cause.PROBING


def test_errors_that_are_no_outright_failure_are_left_to_people(tmp_path: Path) -> None:
    subject = _promoted(tmp_path)
    for _ in range(60):
        outcome = _serve(subject, bad=5, probe=_probe(subject))
        assert outcome.decision.cause is Cause.FINISHED
    assert "the emergency stop stays in force until 12:10:05 UTC" in outcome.decision.reason


@pytest.mark.parametrize(
    "text",
    [
        DOCUMENT + ANALYSIS.replace("10m", "1m"),
        DOCUMENT + ANALYSIS.replace("10m", "0s"),
        DOCUMENT + ANALYSIS.replace("10m", "10m, emergency_stop: 100%"),
    ],
)
def test_it_ends(tmp_path: Path, text: str) -> None:
    subject = _promoted(tmp_path, text)
    for _ in range(3):
        outcome = _serve(subject, bad=50, probe=_probe(subject))
        assert outcome.decision.cause is Cause.FINISHED
    assert "emergency stop" not in outcome.decision.reason
    assert subject.weight() == 10_000


def test_a_restarted_controller_goes_on_watching(tmp_path: Path) -> None:
    subject = _promoted(tmp_path)
    subject.restart()
    assert _serve(subject, bad=50).decision.cause is Cause.PROBING


def test_an_edit_by_hand_ends_it(tmp_path: Path) -> None:
    subject = _promoted(tmp_path)
    snapshot = subject.documents.read()
    subject.documents.write_weights(NAME, {"model-a": 1000, "model-b": 9000}, based_on=snapshot.generation)
    assert _serve(subject, bad=50, probe=_probe(subject)).decision.cause is Cause.WEIGHTS_EDITED
    assert subject.phase() is Phase.MANUAL


def test_at_the_last_step_it_acts_on_the_candidate_alone_and_needs_no_probe(tmp_path: Path) -> None:
    """The control's good answers of earlier stages do not hide that everybody now gets errors."""
    text = DOCUMENT.replace("{metric: error_rate, max: 5%}", "{metric: error_rate, max_increase: 5%}")
    subject = world(tmp_path, text.replace("steps: [10, 50, 100]", "steps: [50, 100]"))
    while subject.weight() < 10_000:
        subject.traffic.serve("model-a", 100)
        subject.traffic.serve("model-b", 100 if subject.weight() else 0)
        subject.tick()
    assert subject.phase() is Phase.PROGRESSING
    for _ in range(4):
        outcome = _serve(subject, bad=50)
    assert subject.phase() is Phase.ROLLED_BACK
    assert "emergency stop" in next(entry.reason for entry in subject.journal() if entry.kind is Kind.ROLLBACK)
    assert outcome.weights["model-b"] == 0
