"""Families of simulations, run in processes of their own. Called by ``python -m bench.simulations``."""

from __future__ import annotations

import importlib
import multiprocessing
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Final

from bench.simulations.outcome import Outcome

FAMILIES: Final = (
    "counts",
    "sample_ratio",
    "means",
    "error_guardrails",
    "latency_guardrails",
    "reports",
    "per_user",
)
"""Modules of this package with ``outcomes(runs, seed) -> list[Outcome]``, in the order of the table."""

_PROCESSES: Final = 2


def run(names: Sequence[str], runs: int, seed: int) -> dict[str, list[Outcome]]:
    """Every family's outcomes, in the order of the names, from at most two processes; progress goes to stderr."""
    began = time.monotonic()
    found: dict[str, list[Outcome]] = {}
    with ProcessPoolExecutor(min(_PROCESSES, len(names)), multiprocessing.get_context("spawn")) as pool:
        pending = {pool.submit(_family, name, runs, seed): name for name in names}
        for future in as_completed(pending):
            name = pending[future]
            found[name] = future.result()
            print(f"{name}: {len(found[name])} rows after {time.monotonic() - began:.0f} s", file=sys.stderr)
    return {name: found[name] for name in names}


def _family(name: str, runs: int, seed: int) -> list[Outcome]:
    module = importlib.import_module(f"bench.simulations.{name}")
    outcomes: list[Outcome] = module.outcomes(runs, seed)
    return outcomes
