"""What is rolled out: scenarios, and a document with many rollouts of them. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from abmesh.analysis.crowd import joining_steps
from abmesh.analysis.truth import HeavyUser
from abmesh.experiment.bucketing import bucket_of
from abmesh.experiment.model import Experiment
from bench.rollouts.upstream import UNIT, Model

CONTROL: Final = "model-a"
CANDIDATE: Final = "model-b"


@dataclass(frozen=True, slots=True)
class Plan:
    """One scenario.

    Attributes:
        name: a DNS label.
        truth: what differs, in words.
        control: how the control answers.
        candidate: how the candidate answers.
        steps: of the rollout, in percent.
        guardrails: each as a YAML mapping.
        most: requests after which its users stop.
        min_requests: of each stage.
        per_minute: requests a minute; None means as fast as answers come.
        emergency_stop: where it acts; at 50% it leaves the decision to the guardrails.
        heavy: users who send a share of all requests each.
    """

    name: str
    truth: str
    control: Model
    candidate: Model
    steps: tuple[int, ...]
    guardrails: tuple[str, ...]
    most: int
    min_requests: int = 100
    per_minute: float | None = None
    emergency_stop: str = "50%"
    heavy: tuple[HeavyUser, ...] = ()


_ERRORS = "{metric: error_rate, max_increase: 60%, relative: true, harm: any}"
_P95 = "{metric: latency_p95, max_increase: 5%, relative: true}"

_PRONE: Final = Model(error_rate=0.1, latency_ms=30)
_STEADY: Final = Model(error_rate=0.02, latency_ms=60, spread=0.12)
"""A p95 near 75 ms, where Envoy's bins are 1 ms wide and the margin of 5% is nearly 4 ms."""

SAME: Final = Plan(
    "same",
    "nothing differs",
    _PRONE,
    _PRONE,
    (10, 50, 100),
    (_ERRORS, "{metric: latency_p95, max_increase: 20%, relative: true, harm: any}"),
    most=8_000,
)
"""``harm: any`` makes equal versions the hardest case: any proven increase would roll back."""

DOUBLED: Final = Plan(
    "doubled", "errors doubled", _PRONE, replace(_PRONE, error_factor=2.0), (5, 25, 50, 100), (_ERRORS,), most=20_000
)
SLOWER: Final = Plan(
    "slower",
    "10% slower",
    _STEADY,
    replace(_STEADY, latency_ms=_STEADY.latency_ms * 1.1),
    (50, 100),
    (_P95,),
    most=5_000,
)
AS_FAST: Final = replace(SLOWER, name="as-fast", truth="nothing differs", candidate=_STEADY)
FEW: Final = Plan(
    "few",
    "nothing differs, 10 requests a minute",
    _PRONE,
    _PRONE,
    (50, 100),
    (_ERRORS,),
    most=10**6,
    min_requests=100,
    per_minute=10,
)
OPEN: Final = replace(FEW, name="open", guardrails=("{metric: error_rate, max: 30%}",), min_requests=1)


def names_of(plans: Sequence[Plan]) -> list[str]:
    """Names of experiments that run these plans: the plan's, with a number."""
    return [f"{plan.name}-{number}" for number, plan in enumerate(plans)]


def document(plans: Sequence[Plan], port: int, seed: int) -> str:
    """An experiments document in which every plan is an experiment with users of its own.

    Args:
        plans: what to roll out.
        port: of the loopback interface, where all models are.
        seed: part of the salts.
    """
    head = f"""\
version: 1
clusters:
  {CONTROL}: {{host: 127.0.0.1, port: {port}}}
  {CANDIDATE}: {{host: 127.0.0.1, port: {port}}}
experiments:
"""
    return head + "".join(_experiment(name, plan, seed) for name, plan in zip(names_of(plans), plans, strict=True))


def _experiment(name: str, plan: Plan, seed: int) -> str:
    guardrails = "".join(f"        - {guardrail}\n" for guardrail in plan.guardrails)
    return f"""\
  - name: {name}
    salt: {name}-{seed}
    match: {{path_prefix: /{name}/}}
    unit: [{{header: {UNIT}}}]
    variants:
      - {{name: {CONTROL}, cluster: {CONTROL}, weight: 100, control: true}}
      - {{name: {CANDIDATE}, cluster: {CANDIDATE}, weight: 0}}
    rollout:
      candidate: {CANDIDATE}
      steps: [{", ".join(str(step) for step in plan.steps)}]
      stage: {{min_duration: 1s, min_requests: {plan.min_requests}}}
      analysis: {{emergency_stop: {plan.emergency_stop}}}
      guardrails:
{guardrails}"""


def heavy_users(experiment: Experiment, plan: Plan) -> dict[str, HeavyUser]:
    """Names for a plan's heavy users, such that each joins the candidate at the step that it should.

    Args:
        experiment: of the document, before its first step.
        plan: that it is of.
    """
    joins = joining_steps(experiment, CANDIDATE)
    found: dict[str, HeavyUser] = {}
    for place, user in enumerate(plan.heavy):
        step = None if user.joins is None else min(user.joins, int(joins.max()))
        for number in itertools.count():
            name = f"{experiment.name}-heavy-{place}-{number}"
            if step in (None, joins[bucket_of(experiment.hash_salt, name.encode())]):
                found[name] = user
                break
    return found
