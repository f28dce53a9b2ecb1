"""What the document says about answers, feedback events and warm-up, and the errors that people see."""

from __future__ import annotations

import json
from typing import Any

import pytest

from abmesh.experiment.answers import Answers, Event, Signal
from abmesh.experiment.codec import json_schema, parse
from abmesh.experiment.errors import DocumentError, Problem
from abmesh.experiment.model import Document, Experiment

TEXT = """\
version: 1
event_origins: [https://app.example]
experiments:
  - name: chat
    unit: [{cookie: sid}]
    issue_cookie: {name: sid, max_age: 1h}
    variants:
      - {name: a, cluster: a, weight: 90, control: true, price: {input: 1, output: 2}}
      - {name: b, cluster: b, weight: 10, price: {input: 1, output: 2}}
    events:
      - click
      - {name: purchase, value: {max: 500}}
      - continuation
    answers: {input_tokens: usage.input_tokens}
    rollout:
      candidate: b
      steps: [5, 100]
      warmup: {path: /v1/chat/completions}
      guardrails:
        - {metric: cost_per_success, max_increase: 10%, relative: true}
      goal: {metric: purchase_value_mean, increase: true, min_effect: 2.5}
"""


def found_in(old: str, new: str) -> tuple[Problem, ...]:
    """What is wrong once a part of the text is replaced."""
    assert TEXT.count(old) == 1
    with pytest.raises(DocumentError) as caught:
        parse(TEXT.replace(old, new))
    return caught.value.problems


def problem(old: str, new: str) -> Problem:
    (only,) = found_in(old, new)
    return only


def chat(old: str = "", new: str = "") -> Experiment:
    assert not old or TEXT.count(old) == 1
    return parse(TEXT.replace(old, new) if old else TEXT).experiments[0]


def test_it_all_survives_being_written_out() -> None:
    document = parse(TEXT)
    dumped = document.model_dump(mode="json", exclude_unset=True)
    assert Document.model_validate(json.loads(json.dumps(dumped))) == document


class TestEvents:
    def test_a_name_alone_is_an_event_without_a_value(self) -> None:
        assert chat().events[0] == Event(name="click")
        assert chat("      - click\n", "      - {name: click}\n") == chat()
        assert chat().counts_continuation
        assert not chat("      - continuation\n", "").counts_continuation

    def test_they_and_prices_and_cookies_make_metrics(self) -> None:
        some = {"click_rate", "click_per_session", "purchase_value_mean", "purchase_value_per_request"}
        more = {"continuation_per_session", "cost_per_request", "cost_per_success"}
        assert some | more < set(chat().metrics)
        assert "click_value_mean" not in chat().metrics
        assert "thumbs" not in chat().metrics

    @pytest.mark.parametrize(
        ("written", "path", "message", "allowed"),
        [
            ("click", "events[3]", "event 'click' appears twice", "each name once"),
            ("{name: click}", "events[3].name", "event 'click' appears twice", "each name once"),
            ("Click", "events[3]", "not in the required form", "1 to 63 lower-case letters"),
            ("{name: Click}", "events[3].name", "not in the required form", "1 to 63 lower-case letters"),
            ("7", "events[3]", "not an event", "a name such as click, or {name: purchase, value: {max: 500}}"),
            ("null", "events[3]", "not an event", "a name such as click, or {name: purchase, value: {max: 500}}"),
            ("{value: {max: 1}}", "events[3].name", "missing field", ""),
            ("{name: x, vlaue: {max: 1}}", "events[3].vlaue", "unknown field; did you mean value?", "name, value"),
            ("{name: x, value: {top: 1, max: 2}}", "events[3].value.top", "unknown field", "min, max"),
            ("{name: x, value: 5}", "events[3].value", "must be a mapping", "fields, each as name: value"),
            ("{name: x, value: {min: 5}}", "events[3].value.max", "missing field", ""),
            (
                "{name: x, value: {min: 5, max: 5}}",
                "events[3].value.min",
                "min must be less than max",
                "less than 5",
            ),
            ("{name: x, value: {min: -1, max: 5}}", "events[3].value.min", "too small", "at least 0"),
            ("{name: x, value: {max: 0.0001}}", "events[3].value.max", "too small", "at least 0.001"),
            ("{name: x, value: {max: 1.5e6}}", "events[3].value.max", "too large", "at most 1000000"),
            ("{name: x, value: {max: .nan}}", "events[3].value.max", "must be a finite number", "a finite number"),
            ("{name: x, value: {max: '5'}}", "events[3].value.max", "must be a number", "a number without quotes"),
            (
                "error",
                "events[3]",
                "its rate would be called error_rate, which is a built-in metric",
                "another name, such as user_error",
            ),
            (
                "{name: cache, value: {max: 1}}",
                "events[3].name",
                "its rate would be called cache_rate, which is a built-in metric",
                "another name, such as user_cache",
            ),
        ],
    )
    def test_a_wrong_event_is_reported_as_it_is_written(
        self, written: str, path: str, message: str, allowed: str
    ) -> None:
        found = problem("      - continuation\n", f"      - continuation\n      - {written}\n")
        assert (found.line, found.path, found.message) == (14, f"experiments[0].{path}", message)
        assert found.allowed.startswith(allowed)
        assert bool(found.allowed) == bool(allowed)

    def test_the_second_request_of_a_session_carries_no_value(self) -> None:
        found = problem("- continuation", "- {name: continuation, value: {max: 1}}")
        assert (found.line, found.path) == (13, "experiments[0].events[2].value")
        assert found.message == "continuation is counted automatically and carries no value"

    def test_a_session_is_an_issued_cookie(self) -> None:
        found = problem("    issue_cookie: {name: sid, max_age: 1h}\n", "")
        assert (found.line, found.path, found.allowed) == (12, "experiments[0].events[2]", "only with issue_cookie")

    def test_pages_that_send_them_are_named_as_browsers_name_them(self) -> None:
        for origin in ("http://localhost:5173", "https://a.example:80", "http://10.0.0.1"):
            assert parse(TEXT.replace("https://app.example", origin)).event_origins == (origin,)
        for wrong in ("https://App.example", "https://app.example/", "'*'", "app.example", "'null'"):
            found = problem("https://app.example", wrong)
            assert (found.line, found.path) == (2, "event_origins[0]")
            assert "such as https://app.example" in found.allowed
        for origin, port in (("https://app.example", ":443"), ("http://app.example", ":80")):
            found = problem("https://app.example", origin + port)
            assert (found.path, found.allowed) == ("event_origins[0]", origin)
        twice = problem("[https://app.example]", "[https://a.example, https://a.example]")
        assert (twice.path, twice.message) == ("event_origins[1]", "origin 'https://a.example' appears twice")

    def test_the_schema_lets_editors_write_them_either_way(self) -> None:
        schema = json_schema()
        short, long = schema["$defs"]["Experiment"]["properties"]["events"]["items"]["anyOf"]
        assert short["type"] == "string"
        assert schema["$defs"][long["$ref"].rpartition("/")[2]]["required"] == ["name"]


class TestMetrics:
    @pytest.mark.parametrize(
        ("metric", "message"),
        [
            ("clik_rate", "this experiment does not measure it: it needs an event clik; did you mean click_rate?"),
            ("thumbs", "this experiment does not measure it: it needs the events thumbs_up and thumbs_down"),
            ("click_value_mean", "this experiment does not measure it: it needs a value on the event click"),
        ],
    )
    @pytest.mark.parametrize(
        ("old", "path", "line"),
        [
            ("cost_per_success, max_increase: 10%, relative: true", "guardrails[0].metric", 20),
            ("purchase_value_mean, increase: true, min_effect: 2.5", "goal.metric", 21),
        ],
    )
    def test_one_that_is_not_measured_says_what_it_needs(
        self, metric: str, message: str, old: str, path: str, line: int
    ) -> None:
        limit = ", min: 0.1" if "guardrails" in path else ", increase: true"
        found = problem(old, metric + limit)
        assert (found.line, found.path, found.message) == (line, f"experiments[0].rollout.{path}", message)
        assert (found.found, found.allowed) == (metric, ", ".join(chat().metrics))

    def test_costs_need_every_variants_price(self) -> None:
        found = problem("weight: 10, price: {input: 1, output: 2}}", "weight: 10}")
        assert found.message == "this experiment does not measure it: costs need a price on every variant"

    def test_sessions_need_an_issued_cookie(self) -> None:
        text = TEXT.replace("      - continuation\n", "").replace("purchase_value_mean", "click_per_session")
        text = text.replace("    issue_cookie: {name: sid, max_age: 1h}\n", "").replace("effect: 2.5", "effect: 2%")
        with pytest.raises(DocumentError, match="a session begins with an issued cookie, so it needs issue_cookie"):
            parse(text)


class TestAnswers:
    def test_without_a_word_they_are_openais_and_caches_say_so(self) -> None:
        plain = Answers()
        assert (plain.input_tokens, plain.output_tokens) == ("usage.prompt_tokens", "usage.completion_tokens")
        assert [(item.field, item.value) for item in plain.refusals] == [
            ("finish_reason", "content_filter"),
            ("refusal", None),
        ]
        assert [(item.header, item.value) for item in plain.cached] == [("age", None), ("x-cache", "hit")]

    def test_a_list_replaces_the_signals_that_it_stands_for(self) -> None:
        answers = chat("answers: {", "answers: {cached: [], refusals: [{header: X-Refused}], ").answers
        assert answers.cached == ()
        assert answers.refusals == (Signal(header="x-refused"),)

    def test_upstreams_may_send_headers_that_clients_may_not(self) -> None:
        assert Signal(header="X-Ab-Cached").header == "x-ab-cached"

    @pytest.mark.parametrize("kind", ["cached", "refusals"])
    def test_a_header_that_envoy_sets_is_not_a_signal(self, kind: str) -> None:
        found = problem("answers: {", f"answers: {{{kind}: [{{header: X-Envoy-Upstream-Service-Time}}], ")
        assert (found.path, found.found) == (
            f"experiments[0].answers.{kind}[0].header",
            "X-Envoy-Upstream-Service-Time",
        )
        assert (found.message, found.allowed) == (
            "Envoy sets this header itself",
            "any header that the upstream sets, except x-envoy-*",
        )

    @pytest.mark.parametrize(
        ("written", "path", "message", "allowed"),
        [
            ("refusals: [{header: a, field: b}]", "refusals[0]", "needs exactly one place", "header or field"),
            ("refusals: [{value: b}]", "refusals[0]", "needs exactly one place", "header or field"),
            (
                "refusals: [{header: ':status', value: '451'}]",
                "refusals[0].header",
                "not a header name",
                "letters, digits and -, such as x-user-id",
            ),
            ("refusals: [{field: a.b}]", "refusals[0].field", "not in the required form", "a JSON key: 1 to 64"),
            (
                "refusals: [{field: a, value: 1}]",
                "refusals[0].value",
                "must be a string",
                "a string; put quotes around it",
            ),
            (
                "refusals: [{header: a, value: ' hit'}]",
                "refusals[0].value",
                "a header's value cannot begin or end with a space",
                "'hit'",
            ),
            ("cached: [age]", "cached[0]", "must be a mapping", "fields, each as name: value"),
            ("output_tokens: a..b", "output_tokens", "not in the required form", "1 to 4 JSON keys with dots"),
            (
                "output_tokens: usage.input_tokens",
                "output_tokens",
                "input and output tokens cannot be the same field",
                "a different path from input_tokens",
            ),
        ],
    )
    def test_a_wrong_one_says_what_is_allowed(self, written: str, path: str, message: str, allowed: str) -> None:
        found = problem("answers: {", f"answers: {{{written}, ")
        assert (found.line, found.path, found.message) == (14, f"experiments[0].answers.{path}", message)
        assert found.allowed.startswith(allowed)

    def test_there_are_not_too_many_signals(self) -> None:
        found = problem("answers: {", f"answers: {{cached: [{'{header: age}, ' * 11}], ")
        assert (found.path, found.message, found.allowed) == (
            "experiments[0].answers.cached",
            "too many",
            "at most 10",
        )


class TestWarmup:
    def test_a_path_is_enough(self) -> None:
        rollout = chat().rollout
        assert rollout is not None
        assert rollout.warmup is not None
        assert (rollout.warmup.method, rollout.warmup.headers, rollout.warmup.min_requests) == ("POST", {}, 10)

    @pytest.mark.parametrize(
        ("written", "path", "message"),
        [
            ({"path": "v1"}, "path", "not in the required form"),
            ({"method": "GET", "body": "{}"}, "body", "a GET has no body"),
            ({"headers": {"Content-Length": "2"}}, "headers.content-length", "the HTTP client sets this header itself"),
            ({"headers": {"X-Model-Version": "a"}}, "headers.X-Model-Version", "clients cannot send this header"),
            ({"max_requests": 9}, "max_requests", "fewer than min_requests"),
            ({"max_duration": "0s"}, "max_duration", "a warm-up needs time"),
            ({"settled": "101%"}, "settled", "not a share"),
            ({"concurrency": 0}, "concurrency", "too small"),
            ({"min_requests": 1}, "min_requests", "too small"),
        ],
    )
    def test_what_could_not_be_sent_is_refused(self, written: dict[str, Any], path: str, message: str) -> None:
        fields = json.dumps({"path": "/v1", **written})
        found = problem("warmup: {path: /v1/chat/completions}", f"warmup: {fields}")
        assert (found.line, found.path.lower()) == (18, f"experiments[0].rollout.warmup.{path}".lower())
        assert found.message.startswith(message)

    def test_a_body_that_is_too_long_is_refused_with_the_limit(self) -> None:
        found = problem("warmup: {path: /v1/chat/completions}", f"warmup: {{path: /v1, body: {'a' * 65537}}}")
        assert (found.message, found.found, found.allowed) == ("too long", "", "at most 65536 characters")

    @pytest.mark.parametrize(
        "written",
        [
            "{path: /v1, headers: {authorization: [s3cret]}}",
            "{path: /v1, headers: {authorization: s3crét}}",
            "{path: /v1, headers: {authorization: ' s3cret'}}",
            "{path: /v1, headers: {content-length: s3cret}}",
            "{path: /v1, headers: {authorization: a, Authorization: s3cret}}",
            "{path: /v1, headers: [authorization, s3cret]}",
            "{path: /v1, headers: s3cret}",
            "{path: /v1, headers: {authorization: !key s3cret}}",
            "{path: /v1, headers: {authorization: &key s3cret}}",
            "{path: /v1, headers: {authorization: {[s3cret]: 1}}}",
            "{path: /v1, headers: {authorization: 's3cret}}",
            "{path: /v1, headers: {authorization: '%s3cret', : :}",
            "{path: /v1, body: {key: s3cret}}",
            "{path: /v1, body: [s3cret]}",
            "{path: /v1, method: GET, body: s3cret}",
            "{path: /v1, Headers: {authorization: s3cret}}",
            "[{headers: {authorization: s3cret}}]",
        ],
    )
    def test_what_may_be_a_secret_is_never_quoted(self, written: str) -> None:
        """The controller logs what is wrong with a document, and status shows it."""
        with pytest.raises(DocumentError) as caught:
            parse(TEXT.replace("warmup: {path: /v1/chat/completions}", f"warmup: {written}"))
        assert "s3cr" not in str(caught.value)
        assert caught.value.problems[0].line >= 18

    @pytest.mark.parametrize(
        "text",
        [
            "- warmup: {headers: {a: s3cret}}",
            "version: {warmup: {headers: {a: s3cret}}}",
            "experiments: {rollout: {warmup: {headers: {a: s3cret}}}}",
            "experiments: [{rollout: [{warmup: {headers: {a: s3cret}}}]}]",
        ],
    )
    def test_nor_is_what_it_stands_in(self, text: str) -> None:
        with pytest.raises(DocumentError) as caught:
            parse(text)
        assert "s3cr" not in str(caught.value)
