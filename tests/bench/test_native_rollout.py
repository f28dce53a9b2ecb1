"""The edits by which the native lane's reaction is measured, and the measurement with a real Envoy and controller."""

from __future__ import annotations

from pathlib import Path

import pytest

from abmesh.experiment.codec import parse
from bench import native_rollout
from bench.reactions import A, B


def weights(text: str) -> dict[str, float]:
    clusters = "clusters:\n  model-a: {host: 127.0.0.1, port: 1}\n  model-b: {host: 127.0.0.1, port: 1}\n"
    (experiment,) = parse(text + clusters, "a test").experiments
    assert experiment.lane == "native"
    return {variant.name: variant.weight for variant in experiment.variants}


def test_an_edit_moves_everybody_to_the_other_variant_and_back() -> None:
    before = weights(native_rollout.NATIVE)
    there = native_rollout.edited(native_rollout.NATIVE, A, B)
    assert weights(there) == {A: before[B], B: before[A]}
    assert native_rollout.edited(there, B, A) == native_rollout.NATIVE


@pytest.mark.envoy
async def test_every_edit_is_obeyed_first_by_one_client_and_then_by_all(tmp_path: Path) -> None:
    told: list[str] = []
    first, last = await native_rollout.measure(tmp_path, 2, told.append)
    assert (first.name, last.name) == ("native_first", "native_last")
    assert len(first.seconds) == len(last.seconds) == 2
    assert all(0 < begun <= ended for begun, ended in zip(first.seconds, last.seconds, strict=True))
    assert "none failed" in told[-1]
