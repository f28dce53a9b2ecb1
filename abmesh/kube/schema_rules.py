"""Rules between the parts of an Experiment, in CEL, in the words of the models. Pure.

What CEL cannot say, such as a limit in its metric's unit, the controller refuses: condition ``Accepted``.
"""

from __future__ import annotations

from typing import Final

from abmesh.experiment import metrics
from abmesh.experiment.fields import LONGEST_TOKEN
from abmesh.experiment.metrics import COSTS, MEASURED, OF_EVENTS, OF_VALUES, THUMBS, THUMBS_DOWN, THUMBS_UP
from abmesh.experiment.names import BUCKETS, CONTINUED_ENDING, OTHER_SEGMENT
from abmesh.kube.schema_parts import Rule

_SUM: Final = "self.variants.map(v, int(v.weight * 100.0 + 0.5)).sum()"
_CONTROLS: Final = "self.variants.filter(v, v.?control.orValue(false)).map(v, v.name)"
_OTHERS: Final = "self.variants.filter(v, !v.?control.orValue(false)).map(v, v.name)"
_NAMES: Final = "self.variants.map(v, v.name)"
_LONGEST_COOKIE: Final = LONGEST_TOKEN - len(CONTINUED_ENDING)


def _texts(names: object) -> str:
    return "[" + ", ".join(f"'{name}'" for name in names) + "]"  # type: ignore[attr-defined]


def _measured(metric: str) -> str:
    """Whether this spec measures a metric."""
    declared = "has(self.events) && self.events.exists(e, {})"
    of_event = []
    for ending in OF_EVENTS:
        needs = "has(e.value) && " if ending in OF_VALUES else ""
        needs += "has(self.issueCookie) && " if ending == "_per_session" else ""
        of_event.append(f"({needs}{metric} == e.name + '{ending}')")
    votes = " && ".join(f"self.events.exists(e, e.name == '{event}')" for event in (THUMBS_UP, THUMBS_DOWN))
    ways = (
        f"{metric} in {_texts(MEASURED)}",
        f"({metric} in {_texts(COSTS)} && self.variants.all(v, has(v.price)))",
        f"({metric} == '{THUMBS.name}' && has(self.events) && {votes})",
        f"({declared.format(' || '.join(of_event))})",
    )
    return f"({' || '.join(ways)})"


def _metrics_of(path: str, given: str) -> Rule:
    """Every metric of a list is measured."""
    return Rule(
        f"{given} || self.{path}.all(g, {_measured('g.metric')})",
        "this experiment does not measure it: %s; see whether it needs an event, a value, prices or issueCookie",
        f"[self.{path}.filter(g, !{_measured('g.metric')}).map(g, g.metric)]",
        path,
    )


OF_SPEC: Final[tuple[Rule, ...]] = (
    Rule(
        f"{_SUM} == {BUCKETS}",
        "weights must sum to exactly 100, found %s = %s",
        f"[self.variants.map(v, v.weight), double({_SUM}) / 100.0]",
        "variants",
    ),
    Rule(
        f"size({_CONTROLS}) == 1",
        "exactly one variant must be the control, found %s; allowed: control: true on one",
        f"[{_CONTROLS}]",
        "variants",
    ),
    Rule(
        f"!has(self.rollout) || self.rollout.candidate in {_OTHERS}",
        "the candidate must be a variant that is not the control, found %s; allowed: one of %s",
        f"[self.rollout.candidate, {_OTHERS}]",
        "rollout.candidate",
    ),
    Rule(
        f"!has(self.overrides) || self.overrides.all(o, o.variant in {_NAMES})",
        "unknown variant, found %s; allowed: %s",
        f"[self.overrides.filter(o, !(o.variant in {_NAMES})).map(o, o.variant), {_NAMES}]",
        "overrides",
    ),
    Rule(
        "!has(self.issueCookie) || self.unit.exists(u, u.?cookie.orValue('') == self.issueCookie.name)",
        "the issued cookie must be listed under unit, or its holder would not be recognised, found %s",
        "[self.issueCookie.name]",
        "issueCookie.name",
    ),
    Rule(
        "!has(self.salt) || !has(self.saltFile)",
        "there is a secret salt already; allowed: either salt or saltFile",
        at="salt",
    ),
    Rule(
        "!has(self.callers) || self.routes.exists(r, r.kind == 'VirtualService')",
        "only a VirtualService of the mesh has callers; allowed: only with a route of kind VirtualService",
        at="callers",
    ),
    Rule(
        f"!has(self.events) || has(self.issueCookie) || !self.events.exists(e, e.name == '{metrics.CONTINUATION}')",
        f"{metrics.CONTINUATION} counts sessions, and only an issued cookie makes a session; allowed: only with "
        "issueCookie",
        at="events",
    ),
    Rule(
        f"!has(self.events) || !has(self.issueCookie) || size(self.issueCookie.name) <= {_LONGEST_COOKIE} || "
        f"!self.events.exists(e, e.name == '{metrics.CONTINUATION}')",
        f"too long for {metrics.CONTINUATION}, which adds a cookie whose name ends in {CONTINUED_ENDING}; allowed: at "
        f"most {_LONGEST_COOKIE} characters",
        at="issueCookie.name",
    ),
    _metrics_of("rollout.guardrails", "!has(self.rollout) || !has(self.rollout.guardrails)"),
    Rule(
        f"!has(self.rollout) || !has(self.rollout.goal) || {_measured('self.rollout.goal.metric')}",
        "this experiment does not measure it: %s; see whether it needs an event, a value, prices or issueCookie",
        "[self.rollout.goal.metric]",
        "rollout.goal.metric",
    ),
    _metrics_of("rollout.secondaryGoals", "!has(self.rollout) || !has(self.rollout.secondaryGoals)"),
    Rule(
        "!has(self.rollout) || !has(self.rollout.guardrails) || self.rollout.guardrails.all(g, !has(g.segment) || "
        f"(has(self.segments) && (g.segment == '{OTHER_SEGMENT}' || g.segment in self.segments.values)))",
        "not a segment of this experiment: %s",
        "[self.rollout.guardrails.filter(g, has(g.segment) && !(has(self.segments) && "
        f"(g.segment == '{OTHER_SEGMENT}' || g.segment in self.segments.values))).map(g, g.segment)]",
        "rollout.guardrails",
    ),
)
"""Rules that stand on ``spec``."""

_SAME: Final = (
    "has(self.spec.{0}) == has(oldSelf.spec.{0}) && (!has(self.spec.{0}) || self.spec.{0} == oldSelf.spec.{0})"
)


def _kept_while_progressing(field: str) -> Rule:
    """Only the whole object sees its status, and with it whether a rollout is under way."""
    return Rule(
        "!has(oldSelf.status) || !has(oldSelf.status.phase) || oldSelf.status.phase != 'Progressing' || "
        f"({_SAME.format(field)})",
        "the salt may not change while the rollout is Progressing: every user would be reshuffled; pause it first",
        at=f"spec.{field}",
        forbidden=True,
    )


OF_OBJECT: Final[tuple[Rule, ...]] = (
    _kept_while_progressing("salt"),
    _kept_while_progressing("saltFile"),
    Rule(
        "!self.metadata.name.contains('.')",
        "not in the required form, found %s; allowed: a DNS label: 1 to 63 lower-case letters, digits and -",
        "[self.metadata.name]",
        "metadata.name",
    ),
)
"""Rules that stand on the whole object."""

OF_STATUS: Final[tuple[Rule, ...]] = (
    Rule(
        "!has(oldSelf.leader) || (has(self.leader) && self.leader.epoch >= oldSelf.leader.epoch)",
        "a newer leader has taken over, of epoch %s",
        "[oldSelf.leader.epoch]",
        "leader.epoch",
        forbidden=True,
    ),
)
"""Rules that stand on ``status``: a leader that was frozen and wakes up cannot write any more."""
