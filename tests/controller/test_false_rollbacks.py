"""Two versions that are equal are not rolled back, however often somebody looks.

Plain thresholds promise less than inference that stays valid at every look, but not this little: each case is six
simulated stages of twenty minutes, looked at every five seconds, with seeds that are fixed.
"""

from __future__ import annotations

import math
import random
from datetime import timedelta
from pathlib import Path

import pytest

from tests.controller.support import DOCUMENT, World, world

STAGES = 6
CONTROL_PER_TICK, CANDIDATE_PER_TICK = 5, 45


def _document(guardrail: str) -> str:
    rails = DOCUMENT[DOCUMENT.index("        - {metric: error_rate") :]
    text = DOCUMENT.replace(rails, f"        - {{{guardrail}}}\n").replace("steps: [10, 50, 100]", "steps: [90]")
    return text.replace("min_duration: 60s, max_duration: 1h", "min_duration: 9h, max_duration: 10h")


def _serve(subject: World, chance: random.Random, variant: str, requests: int, errors: float) -> None:
    for traffic in subject.envoys.values():
        for _ in range(requests):
            code = 503 if chance.random() < errors else 200
            traffic.serve(variant, 1, code=code, ms=10 * round(10 * math.exp(chance.gauss(0, 0.5))))


@pytest.mark.parametrize(
    "guardrail",
    [
        "metric: latency_p95, max_increase: 20%, relative: true",
        "metric: latency_mean, max_increase: 20%, relative: true",
        "metric: error_rate, max_increase: 1%",
        "metric: error_rate, max: 2%",
        "metric: latency_p95, max: 300ms",
    ],
)
def test_equal_versions_stay(tmp_path: Path, guardrail: str) -> None:
    rolled_back = 0
    for seed in range(STAGES):
        chance = random.Random(seed)
        (tmp_path / str(seed)).mkdir()
        subject = world(tmp_path / str(seed), _document(guardrail))
        subject.tick()
        end = subject.now + timedelta(minutes=20)
        while subject.now < end and subject.weight() == 9000:
            _serve(subject, chance, "model-a", CONTROL_PER_TICK, 0.01)
            _serve(subject, chance, "model-b", CANDIDATE_PER_TICK, 0.01)
            subject.tick()
        rolled_back += subject.weight() == 0
    assert rolled_back == 0
