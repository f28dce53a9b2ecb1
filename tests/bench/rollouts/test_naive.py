"""The naive test that the table sets beside the controller."""

from __future__ import annotations

import pytest

from bench.rollouts.naive import EVERY, Peeking, z_of


def test_z_is_that_of_two_proportions_and_nothing_where_nothing_varies() -> None:
    # p = 0.15 and se = sqrt(0.15 * 0.85 * 2 / 100)
    assert z_of(100, 10, 100, 20) == pytest.approx(0.1 / 0.050497, rel=1e-4)
    assert z_of(100, 20, 100, 10) == pytest.approx(-z_of(100, 10, 100, 20))
    assert z_of(100, 0, 100, 0) == z_of(50, 50, 70, 70) == 0.0


def test_it_alarms_once_the_candidate_looks_worse_and_stays_so() -> None:
    peeking = Peeking()
    peeking.look({"model-a": EVERY, "model-b": EVERY}, {"model-a": 10, "model-b": 20})
    assert (peeking.looks, peeking.alarmed) == (1, True)
    peeking.look({"model-a": 2 * EVERY, "model-b": 2 * EVERY}, {"model-a": 40, "model-b": 20})
    assert (peeking.looks, peeking.alarmed) == (2, True)


def test_a_better_candidate_and_too_few_requests_alarm_nobody() -> None:
    peeking = Peeking()
    peeking.look({"model-a": EVERY, "model-b": EVERY}, {"model-a": 20, "model-b": 10})
    peeking.look({"model-a": EVERY - 5, "model-b": 5}, {"model-a": 0, "model-b": 5})
    peeking.look({"model-a": EVERY, "model-b": EVERY + 1}, {"model-a": 0, "model-b": 90})
    assert (peeking.looks, peeking.alarmed) == (1, False)
