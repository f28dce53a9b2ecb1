"""The demo's scenarios, and how each should end. Run by :mod:`abmesh.cli.demo.run`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from abmesh.local.model_server import Behaviour

CONTROL = "model-a"
CANDIDATE = "model-b"
LANES = ("ext_proc", "native")

Ending = Literal["promoted", "rolled_back"]


DOCUMENT = """\
# The demo's experiment: a rollout that would take a day, in a minute.
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

FINETUNE_DOCUMENT = """\
# The demo's fine-tuned model: half the users at once, because it takes many requests to judge a click rate of 2%.
version: 1
experiments:
  - name: chat-model
    salt: chat-model-finetune
    match: {path_prefix: /v1/}
    unit:
      - header: x-user-id
      - cookie: llm-session
      - query: user_id
    issue_cookie: {name: llm-session, max_age: 1h}
    variants:
      - {name: model-a, cluster: model-a, weight: 100, control: true, timeout: 10s, price: {input: 0.15, output: 0.60}}
      - {name: model-b, cluster: model-b, weight: 0, timeout: 10s, price: {input: 0.30, output: 1.20}}
    overrides:
      - {header: {x-user-group: beta-testers}, variant: model-b}
    segments: {header: x-user-segment, values: [power, casual]}
    events: [click, thumbs_up, thumbs_down]
    rollout:
      candidate: model-b
      steps: [50, 100]
      stage: {min_duration: 20s, max_duration: 55s, min_requests: 1000}
      on_timeout: rollback
      guardrails:
        - {metric: error_rate, max: 5%}
        # In milliseconds, because a busy machine slows both models by the same time.
        - {metric: latency_p95, max_increase: 90ms}
        - {metric: click_rate, max_decrease: 0.2%}
      goal: {metric: click_rate, increase: true}
"""


@dataclass(frozen=True, slots=True)
class Change:
    """A change of the candidate's behaviour once it gets a share of the traffic.

    Attributes:
        at_weight: the candidate's weight, in basis points, at which it changes.
        behaviour: the fields of :class:`Behaviour` that change.
    """

    at_weight: int
    behaviour: Mapping[str, Any]


Feedback = Mapping[str, Mapping[str, Mapping[str, float]]]
"""Share of the answers that get an event, 0..1, by variant, segment and event."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """One scenario.

    Attributes:
        name: as given on the command line.
        story: what happens, in one sentence.
        control: how the present model behaves.
        candidate: how the new model behaves at first.
        ending: how the rollout should end.
        change: how the new model's behaviour changes later, if it does.
        because_of: the metric whose harm must cause the rollback; None if any cause will do, such as a timeout.
        document: the experiment.
        rate: requests per second, all users together.
        streamed: share of the requests, 0..1, whose answers are streamed.
        feedback: which answers users give feedback on.
        reported: metrics to show in a report at the end, each with the verdict it must have for the new model; empty if
            that depends on chance. Without metrics, there is no report.
        by_segment: by metric and segment, the verdict that the report must not contradict. It may be undecided, because
            the demo is short.
    """

    name: str
    story: str
    control: Behaviour
    candidate: Behaviour
    ending: Ending
    change: Change | None = None
    because_of: str | None = None
    document: str = DOCUMENT
    rate: float = 120.0
    streamed: float = 0.5
    feedback: Feedback = field(default_factory=dict)
    reported: Mapping[str, str] = field(default_factory=dict)
    by_segment: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def in_lane(self, lane: str) -> Scenario:
        """The same scenario in another lane."""
        return replace(self, document=self.document.replace("    salt:", f"    lane: {lane}\n    salt:", 1))

    @property
    def is_native(self) -> bool:
        """Whether Envoy assigns users itself, with routes from a file that the controller keeps up to date."""
        return "    lane: native\n" in self.document


_BASE = Behaviour(latency_ms=150)

_SPREAD = 0.4
"""Spread of latencies of both models in the fine-tuning scenario: as uneven as a language model's."""

_FINETUNE_FEEDBACK: Feedback = {
    # Power users send 63% of the requests. Over all users, 2.0% click on the present model and 1.9% on the tuned one.
    CONTROL: {
        "power": {"click": 0.005, "thumbs_up": 0.02, "thumbs_down": 0.01},
        "casual": {"click": 0.046, "thumbs_up": 0.03, "thumbs_down": 0.01},
    },
    CANDIDATE: {
        "power": {"click": 0.025, "thumbs_up": 0.03, "thumbs_down": 0.01},
        "casual": {"click": 0.009, "thumbs_up": 0.01, "thumbs_down": 0.02},
    },
}

SCENARIOS: Mapping[str, Scenario] = {
    scenario.name: scenario
    for scenario in (
        Scenario(
            name="good",
            story="the new model is as reliable as the current one and a little faster: 130 ms instead of 150 ms",
            control=_BASE,
            candidate=Behaviour(latency_ms=130),
            ending="promoted",
        ),
        Scenario(
            name="errors",
            story="at 25% of the traffic, the new model becomes overloaded and answers one request in four with 503",
            control=_BASE,
            candidate=Behaviour(latency_ms=140),
            ending="rolled_back",
            change=Change(2500, {"error_rate": 0.25}),
            because_of="error_rate",
        ),
        Scenario(
            name="slow",
            story="the new model answers correctly, but takes 260 ms instead of 150 ms",
            control=_BASE,
            candidate=Behaviour(latency_ms=260),
            ending="rolled_back",
            because_of="latency_p95",
        ),
        # The present model answers in 150 ms and gets 2.0% clicks; the tuned one takes 220 ms and gets 1.9%.
        Scenario(
            name="finetune",
            story="offline, the fine-tuned model got 5% more clicks; live, it takes 220 ms instead of 150 ms and gets "
            "1.9% clicks instead of 2.0%: more from power users, fewer from casual ones",
            control=Behaviour(latency_ms=150, spread=_SPREAD),
            candidate=Behaviour(latency_ms=220, spread=_SPREAD),
            # Usually rolled back for its latency. On a busy machine, where that may take long to prove, the rollout
            # holds and times out instead: the demo is too short to show that so few clicks are just as good.
            ending="rolled_back",
            document=FINETUNE_DOCUMENT,
            rate=150.0,
            streamed=0.2,
            feedback=_FINETUNE_FEEDBACK,
            reported={"latency_p50": "higher", "latency_p95": "", "click_rate": ""},
            by_segment={"click_rate": {"power": "higher", "casual": "lower"}},
        ),
    )
}


@dataclass
class Outcome:
    """The outcome of a demo; ``abmesh demo --json FILE`` writes it.

    Attributes:
        final_weights: percent by variant.
        decisions: the journal's entries for every decision that moved weights or ended the rollout.
        requests: how many requests the users sent.
        errors: how many of them failed, for whatever reason.
        seconds: how long the run took.
        variants: how many requests and errors the users saw from each variant.
        problem: why the demo did not pass; empty if it did.
        feedback: events that users sent, and how many of them were refused; empty if the scenario has none.
        report: the report of ``abmesh analyze`` at the end, if the scenario asks for one.
        told: the part of the report that the demo prints.
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
    feedback: dict[str, int] = field(default_factory=dict)
    report: dict[str, Any] | None = None
    told: str = ""
