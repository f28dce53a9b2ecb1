"""What an experiment is: defaults, derived values, and every rule that a document must keep."""

from __future__ import annotations

import copy
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from pydantic import ValidationError

from abmesh.experiment.bucketing import cells, initial_ranges, reallocate
from abmesh.experiment.codec import parse
from abmesh.experiment.errors import DocumentError, UnknownName
from abmesh.experiment.model import Document, Experiment
from tests.abmesh.experiment.documents import SMALL, THREE, Written, written

BASE: dict[str, Any] = {
    "name": "chat",
    "unit": [{"header": "x-user-id"}, {"cookie": "session"}],
    "variants": [
        {"name": "a", "cluster": "a", "weight": 90, "control": True},
        {"name": "b", "cluster": "b", "weight": 10},
    ],
}
ROLLOUT: dict[str, Any] = {"candidate": "b", "steps": [5, 50, 100]}


def experiment(**fields: Any) -> Experiment:
    return Experiment.model_validate({**copy.deepcopy(BASE), **fields})


def refusal(**fields: Any) -> str:
    """The message of the only refusal, with its path in front."""
    document = {"version": 1, "experiments": [{**copy.deepcopy(BASE), **fields}]}
    with pytest.raises(ValidationError) as caught:
        Document.model_validate(document)
    # pydantic also finds a list too short if one of its items is refused.
    (detail,) = [item for item in caught.value.errors() if item["type"] != "too_short" or "variants" in fields]
    path = (*detail["loc"][2:], *detail.get("ctx", {}).get("path", ()))
    return f"{'.'.join(map(str, path))}: {detail['msg']}"


class TestExperiment:
    def test_defaults(self) -> None:
        plain = experiment()
        assert plain.hash_salt == "chat"
        assert (plain.match.path_prefix, plain.match.host, plain.match.headers) == ("/", None, {})
        assert (plain.lane, plain.slices, plain.rollout, plain.ranges) == ("ext_proc", 50, None, None)

    def test_its_salt_is_its_name_unless_given(self) -> None:
        assert experiment(salt="other").hash_salt == "other"

    def test_knows_control_weights_and_variants(self) -> None:
        plain = experiment()
        assert plain.control.name == "a"
        assert plain.weights == {"a": 9000, "b": 1000}
        assert plain.variant("b").cluster == "b"
        with pytest.raises(UnknownName, match="no variant named 'c'; there is: a, b"):
            plain.variant("c")

    def test_is_immutable(self) -> None:
        with pytest.raises(ValidationError):
            experiment().name = "other"  # type: ignore[misc]  # mypy knows it too

    @given(written())
    def test_ranges_follow_the_weights(self, doc: Written) -> None:
        chat = parse(doc.text).experiment("chat")
        if chat.ranges is None:
            assert chat.effective_ranges == initial_ranges(chat.weights)
        else:
            assert chat.effective_ranges == reallocate(chat.ranges, chat.weights)
        assert chat.cells == cells(chat.effective_ranges, chat.slices)
        assert [cell.variant for cell in chat.cells].count("null") == doc.weights.get("null", 0)

    def test_ranges_that_do_not_fit_the_weights_are_fitted(self) -> None:
        # A person moved weights and left the ranges, as people may.
        stale = {"b": [[0, 5000]], "a": [[5000, 10_000]]}
        assert experiment(ranges=stale).effective_ranges == {"a": ((0, 4000), (5000, 10_000)), "b": ((4000, 5000),)}

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"variants": [BASE["variants"][0]]}, "variants: Tuple should have at least 2 items"),
            (
                {"variants": [BASE["variants"][0], {"name": "a", "cluster": "b", "weight": 10}]},
                "variants.1.name: variant 'a' appears twice",
            ),
            (
                {"variants": [BASE["variants"][0], {"name": "b", "cluster": "b", "weight": 10.01}]},
                "variants: weights must sum to exactly 100",
            ),
            (
                {"variants": [BASE["variants"][0], {"name": "b", "cluster": "b", "weight": 10, "control": True}]},
                "variants: exactly one variant must be the control",
            ),
            ({"unit": [{"cookie": "s"}, {"cookie": "s"}]}, "unit.1: unit 'cookie s' appears twice"),
            ({"unit": [{"cookie": "s", "header": "h"}]}, "unit.0: needs exactly one source"),
            ({"unit": [{"header": None}]}, "unit.0: needs exactly one source"),
            ({"unit": [{"header": ":path"}]}, "unit.0.header: not a header name"),
            ({"unit": [{"header": "X-Model-Version"}]}, "unit.0.header: clients cannot send this header"),
            (
                {"issue_cookie": {"name": "other", "max_age": "1h"}},
                "issue_cookie.name: the issued cookie must be listed under unit, or its holder would not be recognised",
            ),
            (
                {"issue_cookie": {"name": "session", "max_age": "1h", "same_site": "None"}},
                "issue_cookie.secure: browsers drop SameSite=None cookies that are not Secure",
            ),
            (
                {"issue_cookie": {"name": "session", "max_age": "999ms"}},
                "issue_cookie.max_age: a cookie that expires at once keeps no user on a variant",
            ),
            (
                {"issue_cookie": {"name": "session", "max_age": "1h", "secure": 1}},
                "issue_cookie.secure: not one of the allowed values",
            ),
            ({"events": ["click", "click"]}, "events.1.name: event 'click' appears twice"),
            ({"overrides": [{"header": {}, "variant": "b"}]}, "overrides.0.header: needs at least one header"),
            ({"overrides": [{"header": {"h": "v"}, "variant": "c"}]}, "overrides.0.variant: unknown variant"),
            ({"match": {"headers": {"X-A": "1", "x-a": "2"}}}, "match.headers: the same header twice"),
            (
                {"match": {"headers": {"x-ab-slice": "1"}}},
                "match.headers.x-ab-slice: clients cannot send this header",
            ),
            (
                {"match": {"headers": {"X_AB-slice": "1"}}},
                "match.headers.X_AB-slice: clients cannot send this header",
            ),
            (
                {"match": {"headers": {"x-envoy-user": "1"}}},
                "match.headers.x-envoy-user: clients cannot send this header",
            ),
            ({"match": {"path_prefix": "/v1?x"}}, "match.path_prefix: "),
            (
                {"segments": {"header": "Cookie", "values": ["a"]}},
                "segments.header: the cookie header holds all cookies, not a segment",
            ),
            ({"segments": {"header": "h", "values": ["a", "a"]}}, "segments.values.1: segment 'a' appears twice"),
            (
                {"segments": {"header": "h", "values": ["a", "other"]}},
                "segments.values.1: 'other' is the segment of undeclared values",
            ),
            (
                {"rollout": {**ROLLOUT, "candidate": "a"}},
                "rollout.candidate: the candidate must be a variant that is not the control",
            ),
            ({"rollout": {**ROLLOUT, "steps": [5, 5]}}, "rollout.steps.1: steps must rise"),
            ({"rollout": {**ROLLOUT, "steps": [0, 5]}}, "rollout.steps.0: steps must rise"),
            (
                {"rollout": {**ROLLOUT, "goal": {"metric": "click_rate"}}},
                "rollout.goal.metric: this experiment does not measure it",
            ),
            (
                {"rollout": {**ROLLOUT, "stage": {"min_duration": "1h", "max_duration": "1h"}}},
                "rollout.stage.max_duration: max_duration must be longer than min_duration",
            ),
            (
                {"rollout": {**ROLLOUT, "guardrails": [{"metric": "ttft_p59", "max": "1s"}]}},
                "rollout.guardrails.0.metric: not a metric; did you mean ttft_p9",
            ),
            (
                {"rollout": {**ROLLOUT, "guardrails": [{"metric": "error_rate", "segment": "a", "max": "1%"}]}},
                "rollout.guardrails.0.segment: this experiment declares no segments",
            ),
            (
                {
                    "segments": {"header": "h", "values": ["power"]},
                    "rollout": {
                        **ROLLOUT,
                        "guardrails": [
                            {"metric": "error_rate", "segment": "other", "max": "1%"},
                            {"metric": "error_rate", "segment": "powr", "max": "1%"},
                        ],
                    },
                },
                "rollout.guardrails.1.segment: not a segment of this experiment; did you mean power?",
            ),
            (
                {"rollout": {**ROLLOUT, "guardrails": [{"metric": "error_rate"}]}},
                "rollout.guardrails.0: exactly one limit is needed",
            ),
            (
                {"rollout": {**ROLLOUT, "guardrails": [{"metric": "error_rate", "max": "1%", "max_increase": "1%"}]}},
                "rollout.guardrails.0: exactly one limit is needed",
            ),
            (
                {"rollout": {**ROLLOUT, "guardrails": [{"metric": "error_rate", "max": "1%", "relative": True}]}},
                "rollout.guardrails.0.relative: only max_increase and max_decrease can be relative",
            ),
            (
                {"rollout": {**ROLLOUT, "guardrails": [{"metric": "error_rate", "max": "1s"}]}},
                "rollout.guardrails.0.max: not a possible limit for error_rate",
            ),
            (
                {"rollout": {**ROLLOUT, "guardrails": [{"metric": "latency_p95", "max_increase": "20%"}]}},
                "rollout.guardrails.0.max_increase: not a possible limit for latency_p95",
            ),
            (
                {
                    "rollout": {
                        **ROLLOUT,
                        "guardrails": [{"metric": "latency_p95", "max_increase": "20ms", "relative": True}],
                    }
                },
                "rollout.guardrails.0.max_increase: not a possible limit for latency_p95",
            ),
            ({"ranges": {"a": [[0, 9999]]}}, "ranges: ranges must cover every bucket once"),
            ({"ranges": {"a": [[0, 6000]], "b": [[5000, 10_000]]}}, "ranges: ranges must cover every bucket once"),
            (
                {"ranges": {"a": [[0, 5000], [5000, 5000], [5000, 10_000]]}},
                "ranges: ranges must cover every bucket once",
            ),
            ({"ranges": {"a": [[-5, 10_000]]}}, "ranges: ranges must cover every bucket once"),
            ({"ranges": {}}, "ranges: ranges must cover every bucket once"),
        ],
    )
    def test_rules(self, fields: dict[str, Any], message: str) -> None:
        assert refusal(**fields).startswith(message)

    def test_names_of_headers_are_kept_in_lower_case(self) -> None:
        plain = experiment(unit=[{"header": "X-User-Id"}], match={"headers": {"X-A": "B"}, "host": "Api.Example"})
        assert plain.unit[0].header == "x-user-id"
        assert plain.match.headers == {"x-a": "B"}
        assert plain.match.host == "api.example"

    def test_a_rollout_with_every_field(self) -> None:
        rollout = experiment(
            events=["click"],
            rollout={
                **ROLLOUT,
                "stage": {"min_duration": "30s", "min_requests": 10, "max_duration": "1h"},
                "on_timeout": "rollback",
                "guardrails": [
                    {"metric": "error_rate", "max": "5%"},
                    {"metric": "latency_p95", "max_increase": "20%", "relative": True},
                    {"metric": "latency_mean", "max_increase": "50ms"},
                ],
                "goal": {"metric": "click_rate"},
            },
        ).rollout
        assert rollout is not None
        assert rollout.steps == (500, 5000, 10_000)
        assert rollout.stage.min_duration == timedelta(seconds=30)
        assert [guardrail.max_increase for guardrail in rollout.guardrails] == [None, 0.2, timedelta(milliseconds=50)]
        assert rollout.guardrails[1].measured.quantile == 0.95
        assert rollout.goal is not None
        assert rollout.goal.more_is_better


class TestDocument:
    def test_finds_experiments_by_name(self) -> None:
        document = parse(THREE)
        assert document.experiment("chat") is document.experiments[0]
        with pytest.raises(UnknownName, match="no experiment named 'talk'; there is: chat"):
            document.experiment("talk")

    def test_may_hold_no_experiment_at_all(self) -> None:
        assert parse("version: 1\nexperiments: []\n").experiments == ()

    def test_names_of_experiments_are_unique(self) -> None:
        twice = SMALL + SMALL.split("experiments:\n")[1]
        with pytest.raises(DocumentError, match=r"experiments\[1\]\.name: experiment 'chat' appears twice"):
            parse(twice)

    @pytest.mark.parametrize(("tls", "sni"), [("true", None), ("{sni: models.example}", "models.example")])
    def test_a_cluster_may_speak_tls(self, tls: str, sni: str | None) -> None:
        text = f"clusters: {{a: {{host: h, port: 443, tls: {tls}}}, b: {{host: h, port: 80, tls: false}}}}\n{SMALL}"
        clusters = parse(text).clusters
        assert clusters is not None
        assert clusters["a"].tls is not None
        assert clusters["a"].tls.sni == sni
        assert clusters["b"].tls is None

    @pytest.mark.parametrize(
        ("clusters", "path", "allowed"),
        [
            ("abmesh-ext-proc: {host: h, port: 1}", "clusters.abmesh-ext-proc", "any other name"),
            ("c: {host: 'model:8000', port: 1}", "clusters.c.host", "a host name or an IP address, without a port"),
            ("c: {host: 'a:b', port: 1}", "clusters.c.host", "a host name or an IP address, without a port"),
            ('c: {host: h, port: 1, tls: {sni: "a\\nb"}}', "clusters.c.tls.sni", "a host name or an IP address"),
            ('c: {host: h, port: 1, tls: {sni: "a\\0b"}}', "clusters.c.tls.sni", "a host name or an IP address"),
            (
                f"c: {{host: h, port: 1, tls: {{sni: {'a' * 256}}}}}",
                "clusters.c.tls.sni",
                "a host name or an IP address",
            ),
            ("c: {host: h, port: 1, tls: {sni: 'a:443'}}", "clusters.c.tls.sni", "without a port"),
            ("c: {host: h, port: 1, tls: {ca_file: ca.pem}}", "clusters.c.tls.ca_file", "the absolute path of a file"),
            ('c: {host: h, port: 1, tls: {ca_file: "/a\\nb"}}', "clusters.c.tls.ca_file", "no control characters"),
        ],
    )
    def test_a_cluster_that_envoy_would_not_start_with_is_refused_by_field(
        self, clusters: str, path: str, allowed: str
    ) -> None:
        with pytest.raises(DocumentError) as refused:
            parse(f"clusters: {{a: {{host: h, port: 1}}, b: {{host: '::1', port: 1}}, {clusters}}}\n{SMALL}")
        (problem,) = refused.value.problems
        assert problem.path == path
        assert allowed in problem.allowed

    @given(written())
    def test_survives_being_written_out(self, doc: Written) -> None:
        document = parse(doc.text)
        assert Document.model_validate(document.model_dump(mode="json", exclude_unset=True)) == document
