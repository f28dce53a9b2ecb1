"""Rules of the parts of an Experiment, in CEL, in the words of the models. Pure.

Rules stand on the smallest field that they need: an object that was stored before a rule is only held to it where the
field changes. Those between parts are in :mod:`abmesh.kube.schema_rules`.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from abmesh.experiment.names import ENVOY_PREFIX, MODEL_VERSION, OTHER_SEGMENT, TRUSTED_PREFIX
from abmesh.experiment.validation import OF_THE_CONNECTION


class Rule(NamedTuple):
    """A rule in CEL.

    Attributes:
        rule: what must hold.
        message: what is wrong if it does not.
        found: an expression of the list of what is shown after the message; `message` then has a place for each.
        at: path of the field to blame, below where the rule stands.
        forbidden: whether it is about a change rather than a value.
    """

    rule: str
    message: str
    found: str = ""
    at: str = ""
    forbidden: bool = False

    def written(self) -> dict[str, Any]:
        """It as the schema has it."""
        written: dict[str, Any] = {"rule": self.rule}
        if self.found:
            # Only format() may put values into a message: the cost of joining texts is reckoned as unbounded.
            written["messageExpression"] = f"'{self.message.replace(chr(39), chr(92) + chr(39))}'.format({self.found})"
            written["message"] = self.message.partition(", found %s")[0].partition(": %s")[0]
        else:
            written["message"] = self.message
        if self.at:
            written["fieldPath"] = f".{self.at}"
        if self.forbidden:
            written["reason"] = "FieldValueForbidden"
        return written


_RESERVED: Final = (
    "({0}.lowerAscii().replace('_', '-') == '" + MODEL_VERSION + "' || "
    "{0}.lowerAscii().replace('_', '-').startsWith('" + TRUSTED_PREFIX + "') || "
    "{0}.lowerAscii().replace('_', '-').startsWith('" + ENVOY_PREFIX + "'))"
)
_CLIENTS_SEND: Final = Rule(
    "!" + _RESERVED.format("self"), "clients cannot send this header, which Envoy removes, found %s", "[self]"
)
_UPSTREAMS_SEND: Final = Rule(
    f"!self.lowerAscii().startsWith('{ENVOY_PREFIX}')", "Envoy sets this header itself, found %s", "[self]"
)
_HEADER_NAMES: Final = Rule(
    r"self.all(k, size(k) <= 128 && k.matches('^[!#$%&\'*+.^_`|~0-9A-Za-z-]+$'))",
    "not a header name; allowed: letters, digits and -, such as x-user-id",
)
_MAP_OF_CLIENTS: Final = Rule(
    "!self.exists(k, " + _RESERVED.format("k") + ")",
    "clients cannot send this header, which Envoy removes: %s",
    "[self.filter(k, " + _RESERVED.format("k") + ")]",
)
_OWN: Final = "[" + ", ".join(f"'{name}'" for name in OF_THE_CONNECTION) + "]"
_MAP_OF_OURS: Final = Rule(
    f"!self.exists(k, k.lowerAscii() in {_OWN})",
    "the HTTP client sets this header itself: %s",
    f"[self.filter(k, k.lowerAscii() in {_OWN})]",
)
_POINTS: Final = "int({} * 100.0 + 0.5)"
_TWO_DECIMALS: Final = (
    "{0} * 100.0 - double(int({0} * 100.0 + 0.5)) < 0.000001 && double(int({0} * 100.0 + 0.5)) - {0} * 100.0 < 0.000001"
)


def _exactly_one(message: str, *fields: str) -> Rule:
    given = ", ".join(f"has(self.{field})" for field in fields)
    allowed = ", ".join(fields[:-1]) + f" or {fields[-1]}"
    return Rule(f"[{given}].filter(x, x).size() == 1", f"{message}; allowed: one of {allowed}")


def _between(field: str, shortest: str, longest: str, message: str) -> Rule:
    rule = f"!has(self.{field}) || (self.{field} >= duration('{shortest}') && self.{field} <= duration('{longest}'))"
    return Rule(rule, f"{message}, found %s; allowed: {shortest} to {longest}", f"[self.{field}]", field)


_COMPARES: Final = "(has(self.maxIncrease) || has(self.maxDecrease))"

PARTS: Final[dict[str, tuple[Rule, ...]]] = {
    "routes": (
        Rule(
            "self.all(r, self.exists_one(q, q == r))",
            "a route appears twice; allowed: each route, or rule of it, once",
        ),
    ),
    "match.headers": (_HEADER_NAMES, _MAP_OF_CLIENTS),
    "unit": (
        Rule(
            "self.all(u, self.exists_one(w, "
            "has(u.header) && has(w.header) ? w.header.lowerAscii() == u.header.lowerAscii() : w == u))",
            "a unit appears twice; allowed: each unit once",
        ),
    ),
    "unit[]": (_exactly_one("needs exactly one source", "header", "cookie", "query"),),
    "unit[].header": (_CLIENTS_SEND,),
    "issueCookie": (
        Rule(
            "self.sameSite != 'none' || self.secure == 'true'",
            'browsers drop SameSite=None cookies that are not Secure; allowed: "true"',
            at="secure",
        ),
        Rule(
            "self.maxAge >= duration('1s')",
            "a cookie that expires at once keeps no user on a variant; allowed: at least 1s",
            at="maxAge",
        ),
    ),
    "issueCookie.keyFiles": (
        Rule("self.all(k, self.exists_one(j, j == k))", "a key appears twice; allowed: each key once"),
    ),
    "callers": (_exactly_one("needs exactly one choice of callers", "namespaces", "selector", "all"),),
    "variants[].weight": (
        Rule(_TWO_DECIMALS.format("self"), "a percentage has at most two decimals, found %s", "[self]"),
    ),
    "variants[].timeout": (
        Rule("self >= duration('1ms')", "a time limit of 0; allowed: at least 1ms; leave it out for no limit"),
    ),
    "overrides[].header": (_HEADER_NAMES, _MAP_OF_CLIENTS),
    "segments.header": (
        _CLIENTS_SEND,
        Rule(
            "self.lowerAscii() != 'cookie'",
            "the cookie header holds all cookies, not a segment; allowed: a header such as x-user-segment",
        ),
    ),
    "segments.values": (
        Rule(
            f"!('{OTHER_SEGMENT}' in self)",
            f"'{OTHER_SEGMENT}' is the segment of undeclared values; allowed: any other name",
        ),
    ),
    "answers": (
        Rule(
            "self.inputTokens != self.outputTokens",
            "input and output tokens cannot be the same field, found %s",
            "[self.outputTokens]",
            "outputTokens",
        ),
    ),
    "answers.refusals[]": (_exactly_one("needs exactly one place", "header", "field"),),
    "answers.refusals[].header": (_UPSTREAMS_SEND,),
    "answers.cached[].header": (_UPSTREAMS_SEND,),
    "events[].value": (
        Rule(
            "!has(self.min) || self.min < self.max",
            "min must be less than max, found %s; allowed: less than %s",
            "[self.min, self.max]",
            "min",
        ),
    ),
    "rollout": (
        Rule(
            "self.mode != 'experiment' || (size(self.steps) == 1 && self.steps[0] < 100.0)",
            "an experiment keeps one split; allowed: exactly one step, below 100",
            at="steps",
        ),
        Rule(
            "self.mode != 'experiment' || (has(self.goal) && has(self.goal.plannedRequests))",
            "an experiment needs a goal to decide on, with plannedRequests, the number of requests at which it ends "
            "undecided; abmesh plan computes it",
            at="goal",
        ),
        Rule(
            "self.mode == 'experiment' || !has(self.goal) || self.goal.design == 'anytime'",
            "only mode: experiment has planned looks; allowed: anytime",
            at="goal.design",
        ),
        Rule(
            "!has(self.secondaryGoals) || size(self.secondaryGoals) == 0 || has(self.goal)",
            "secondary goals stand beside a primary one; allowed: with goal",
            at="secondaryGoals",
        ),
        Rule(
            "!has(self.secondaryGoals) || !has(self.goal) || "
            "!self.secondaryGoals.exists(g, g.metric == self.goal.metric)",
            "this is a goal already, found %s; allowed: each metric once, the primary goal's included",
            "[self.goal.metric]",
            "secondaryGoals",
        ),
    ),
    "rollout.steps": (
        Rule(
            "self.all(s, s > 0.0) && (size(self) < 2 || self.map(s, " + _POINTS.format("s") + ").isSorted()) && "
            "self.all(s, self.exists_one(t, t == s))",
            "steps must rise, from above 0, found %s",
            "[self]",
        ),
    ),
    "rollout.steps[]": (
        Rule(_TWO_DECIMALS.format("self"), "a percentage has at most two decimals, found %s", "[self]"),
    ),
    "rollout.stage": (
        Rule(
            "!has(self.maxDuration) || self.maxDuration > self.minDuration",
            "maxDuration must be longer than minDuration, found %s; allowed: more than %s",
            "[self.maxDuration, self.minDuration]",
            "maxDuration",
        ),
    ),
    "rollout.guardrails[]": (
        _exactly_one("exactly one limit is needed", "max", "maxIncrease", "min", "maxDecrease"),
        Rule(
            f"!self.?relative.orValue(false) || {_COMPARES}",
            "only maxIncrease and maxDecrease can be relative",
            at="relative",
        ),
        Rule(
            f"self.?harm.orValue('limit') == 'limit' || {_COMPARES}",
            "any change can count as harm only with maxIncrease or maxDecrease; allowed: limit",
            at="harm",
        ),
        Rule(
            "!has(self.negligible) || (self.?relative.orValue(false) && has(self.maxIncrease))",
            "a negligible value needs a relative maxIncrease of a share",
            at="negligible",
        ),
    ),
    "rollout.goal": (
        Rule("!self.relative || has(self.minEffect)", "only minEffect can be relative; allowed: false", at="relative"),
    ),
    "rollout.secondaryGoals[]": (
        Rule(
            "self.?design.orValue('anytime') == 'anytime'",
            "only the primary goal has planned looks; allowed: anytime",
            at="design",
        ),
        Rule(
            "!self.?relative.orValue(false) || has(self.minEffect)",
            "only minEffect can be relative; allowed: false",
            at="relative",
        ),
    ),
    "rollout.checks[]": (
        _exactly_one("a check asks either Prometheus or a webhook", "prometheus", "webhook"),
        Rule(
            "!has(self.prometheus) || has(self.max) || has(self.min)",
            "a number needs a limit; allowed: max, min or both",
        ),
        Rule(
            "!has(self.webhook) || !(has(self.max) || has(self.min) || has(self.address))",
            "a webhook's status is its whole answer; allowed: max, min and address only with prometheus",
        ),
        Rule(
            "!has(self.max) || !has(self.min) || self.min <= self.max",
            "no number is at least min and at most max, found %s and %s",
            "[self.min, self.max]",
            "min",
        ),
        _between("interval", "1s", "24h", "not a possible interval"),
        _between("timeout", "100ms", "5m", "not a possible time limit"),
    ),
    "rollout.checks[].address": (
        Rule(
            "!self.contains('?')",
            "the query's path is added to its end; allowed: an address without ?; a key fits into headers",
        ),
    ),
    "rollout.checks[].headers": (_HEADER_NAMES, _MAP_OF_CLIENTS, _MAP_OF_OURS),
    "rollout.warmup": (
        Rule(
            "self.maxRequests >= self.minRequests",
            "fewer than minRequests, found %s; allowed: at least %s",
            "[self.maxRequests, self.minRequests]",
            "maxRequests",
        ),
        Rule(
            "self.method != 'GET' || !has(self.body) || self.body == ''",
            "a GET has no body; allowed: no body, or method: POST",
            at="body",
        ),
        Rule("self.maxDuration > duration('0s')", "a warm-up needs time; allowed: more than 0s", at="maxDuration"),
    ),
    "rollout.warmup.headers": (_HEADER_NAMES, _MAP_OF_CLIENTS, _MAP_OF_OURS),
}
"""Rules by the path, below spec, of where they stand."""
