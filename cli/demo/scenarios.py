"""The stories that the demo tells, and how each should end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from cli.demo.model_server import Behaviour

CONTROL = "model-a"
CANDIDATE = "model-b"

Ending = Literal["promoted", "rolled_back"]


@dataclass(frozen=True, slots=True)
class Change:
    """A change of the candidate's behaviour once it gets a share of the traffic.

    Attributes:
        at_weight: weight of the candidate, in basis points, from which on it behaves so.
        behaviour: the fields of :class:`Behaviour` that change.
    """

    at_weight: int
    behaviour: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Scenario:
    """One story.

    Attributes:
        name: as the command line names it.
        story: what happens, in one sentence.
        control: how the present model behaves.
        candidate: how the new model behaves at first.
        ending: how the rollout should end.
        change: how the new model behaves later, if it changes.
        because_of: metric that must be found to do harm; a rollback for another cause, such as a timeout, does not do.
    """

    name: str
    story: str
    control: Behaviour
    candidate: Behaviour
    ending: Ending
    change: Change | None = None
    because_of: str | None = None


_BASE = Behaviour(latency_ms=150)

SCENARIOS: Mapping[str, Scenario] = {
    scenario.name: scenario
    for scenario in (
        Scenario(
            name="good",
            story="the new model is as reliable as the present one, and a little faster: 130 ms against 150 ms",
            control=_BASE,
            candidate=Behaviour(latency_ms=130),
            ending="promoted",
        ),
        Scenario(
            name="errors",
            story="from 25% of the traffic on, the new model is overloaded and answers one request in four with 503",
            control=_BASE,
            candidate=Behaviour(latency_ms=140),
            ending="rolled_back",
            change=Change(2500, {"error_rate": 0.25}),
            because_of="error_rate",
        ),
        Scenario(
            name="slow",
            story="the fine-tuned model answers correctly, but takes 260 ms against 150 ms",
            control=_BASE,
            candidate=Behaviour(latency_ms=260),
            ending="rolled_back",
            because_of="latency_p95",
        ),
    )
}

DOCUMENT = """\
# The demo's experiment: the rollout of a day, in seconds.
version: 1
experiments:
  - name: chat-model
    salt: chat-model-demo
    match: {path_prefix: /v1/}
    unit:
      - header: x-user-id
      - cookie: llm-session
      - query: user_id
    issue_cookie: {name: llm-session, max_age: 1h}
    variants:
      - {name: model-a, cluster: model-a, weight: 100, control: true, timeout: 10s}
      - {name: model-b, cluster: model-b, weight: 0, timeout: 10s}
    overrides:
      - {header: {x-user-group: beta-testers}, variant: model-b}
    segments: {header: x-user-segment, values: [power, casual]}
    events: [click, thumbs_up, thumbs_down]
    rollout:
      candidate: model-b
      steps: [10, 25, 50, 100]
      stage: {min_duration: 3s, max_duration: 60s, min_requests: 40}
      on_timeout: rollback
      guardrails:
        - {metric: error_rate, max: 5%}
        - {metric: latency_p95, max_increase: 30%, relative: true}
      goal: {metric: click_rate, increase: true}
"""


@dataclass
class Outcome:
    """What a run of the demo came to; ``abmesh demo --json FILE`` writes it.

    Attributes:
        final_weights: percent by variant.
        decisions: every decision of the controller that moved weights or ended the rollout, as the journal has it.
        requests: how many requests the users sent.
        errors: how many of them failed, whoever was to blame.
        seconds: how long the run took.
        variants: what the users saw of each variant.
    """

    scenario: str
    expected: Ending
    outcome: str
    passed: bool
    final_weights: dict[str, float]
    requests: int
    errors: int
    seconds: float
    decisions: list[dict[str, Any]] = field(default_factory=list)
    variants: dict[str, dict[str, float]] = field(default_factory=dict)
    problem: str = ""
