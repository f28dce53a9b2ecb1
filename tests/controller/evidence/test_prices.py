"""A price that is edited in the middle of a stage: everything that is compared uses the new price."""

from __future__ import annotations

import json
import zlib
from base64 import b85decode, b85encode
from datetime import timedelta

import pytest

from abmesh.experiment.model import Experiment
from controller.codec.evidence import pack, unpack
from controller.decision.decide import Inputs, decide
from controller.decision.history import Evidence, History, PastStage
from controller.decision.verdicts import Verdict
from controller.evidence.counts import Counts
from controller.evidence.coverage import Coverage
from controller.evidence.summary import VariantEvidence
from controller.evidence.summing import summarize
from controller.records import Phase, adopt
from tests.controller.support import START, experiment

COSTS = {"metric": "cost_per_request", "max": 0.001}


def _at_price(dollars: float) -> Experiment:
    price = {"input": 0.0, "output": dollars}
    return experiment(
        weight=50,
        rollout={"guardrails": [COSTS], "steps": [50, 100]},
        variants=[
            {"name": "model-a", "cluster": "a", "weight": 50, "control": True, "price": price},
            {"name": "model-b", "cluster": "b", "weight": 50, "price": price},
        ],
    )


def _evidence(subject: Experiment, requests: int) -> dict[str, VariantEvidence]:
    """So many requests in every slice, of some 200 output tokens each."""
    names = list(subject.weights)
    codes = {(name, slice_, 200): requests for name in names for slice_ in range(50)}
    amounts = {}
    for name in names:
        for slice_ in range(50):
            amounts[name, slice_, "output_tokens"] = requests * (195 + slice_ % 11)
            amounts[name, slice_, "usage"] = requests
    return summarize(Counts(codes, amounts), names, subject.prices)


def _inputs(subject: Experiment, history: History, seconds: float, requests: int) -> Inputs:
    state = adopt(subject, Phase.PROGRESSING, "s", START)
    at = START + timedelta(seconds=seconds)
    evidence = _evidence(subject, requests)
    return Inputs(subject, state, history, Coverage(1), at, at, began=START, evidence=evidence)


@pytest.mark.parametrize("after", [2.5, 0.1])
def test_a_new_price_applies_to_the_whole_stage(after: float) -> None:
    """At 1 and at 2.5 dollars an answer costs less than its limit of a thousandth, whatever the checkpoints before."""
    before, history = _at_price(1.0), History()
    for tick in range(1, 6):
        history = decide(_inputs(before, history, 60 * tick, 20 * tick)).history
    assert len(history.checkpoints) > 2
    now = _at_price(after)
    (judged,) = decide(_inputs(now, history, 360, 120)).situation.judgements
    assert judged.verdict is not Verdict.HARMFUL
    assert judged.value == pytest.approx(200 * after / 1e6, rel=0.01)


def test_a_new_price_applies_to_earlier_stages_too() -> None:
    before, now = _at_price(1.0), _at_price(2.5)
    history = History().after_stage(PastStage("ended", before.weights, _evidence(before, 50)))
    (judged,) = decide(_inputs(now, history, 60, 50)).situation.judgements
    assert judged.value == pytest.approx(0.0005, rel=0.01)


def test_a_price_that_is_beyond_the_limit_is_harm_at_once() -> None:
    now = _at_price(10.0)
    (judged,) = decide(_inputs(now, History(), 60, 50)).situation.judgements
    assert judged.verdict is Verdict.HARMFUL


def test_stored_evidence_of_fewer_amounts_is_read() -> None:
    """Packed before there were amounts, first tokens and segments."""
    found: Evidence = {"model-b": VariantEvidence({200: 5}, 50, {}, {0: {(10.0, 1.0): 5}})}
    plain = json.loads(zlib.decompress(b85decode(pack(found))))
    for field in ("amounts", "ttft", "segments"):
        del plain["model-b"][field]
    plain["model-b"]["slices"] = [[3, 5, 0, 0, 50]]
    (read,) = unpack(b85encode(zlib.compress(json.dumps(plain).encode())).decode()).values()
    assert (read.codes, read.slices[3].requests, read.slices[3].duration_ms) == ({200: 5}, 5, 50)
    assert (read.amounts, read.ttft, read.segments) == ({}, {}, {})
