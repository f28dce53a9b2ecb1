"""Reading the document: everything that is wrong is named, and nothing else is let through."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import strategies as st

from abmesh.experiment.codec import json_schema, parse
from abmesh.experiment.errors import DocumentError, Problem
from tests.abmesh.experiment.documents import SMALL, THREE, Written, written
from tests.examples import examples
from tests.paths import ROOT

DEFAULT = (ROOT / "experiments.yaml").read_text()


def problems(text: str) -> tuple[Problem, ...]:
    with pytest.raises(DocumentError) as caught:
        parse(text, "doc.yaml")
    return caught.value.problems


def problem(text: str) -> Problem:
    (only,) = problems(text)
    return only


def with_line(text: str, old: str, new: str) -> str:
    assert text.count(old) == 1
    return text.replace(old, new)


class TestParse:
    def test_reads_the_default_document(self) -> None:
        document = parse(DEFAULT)
        assert [item.name for item in document.experiments] == ["chat-model"]
        assert document.experiments[0].weights == {"model-a": 9500, "model-b": 500}

    def test_the_text_may_start_with_a_byte_order_mark(self) -> None:
        assert parse("\ufeff" + SMALL) == parse(SMALL)

    def test_plain_values_are_those_of_yaml_1_2(self) -> None:
        text = with_line(SMALL, "unit: [{header: x-user-id}]", "unit: [{header: x-user-id}]\n    salt: yes")
        assert parse(text).experiments[0].salt == "yes"

    def test_every_problem_is_named_with_its_line_and_path(self) -> None:
        text = """\
version: 1
experiments:
  - name: Chat
    slat: x
    unit: [{header: x-user-id}]
    issue_cookie: {name: llm, max_age: 5}
    variants:
      - {name: model-a, weight: 90.005, control: yes, cluster: a}
      - {name: model-b, cluster: b, weight: -1}
    slices: 7.5
"""
        found = {(item.line, item.path, item.found) for item in problems(text)}
        assert found == {
            (3, "experiments[0].name", "Chat"),
            (4, "experiments[0].slat", "slat"),
            (6, "experiments[0].issue_cookie.max_age", "5"),
            (8, "experiments[0].variants[0].weight", "90.005"),
            (8, "experiments[0].variants[0].control", "yes"),
            (9, "experiments[0].variants[1].weight", "-1"),
            (10, "experiments[0].slices", "7.5"),
        }

    def test_rules_between_fields_are_all_named_too(self) -> None:
        text = """\
version: 1
clusters: {a: {host: h, port: 1}}
experiments:
  - name: chat
    unit: [{header: x-user-id}, {header: X-User-Id}]
    variants:
      - {name: model-a, cluster: a, weight: 60}
      - {name: model-a, cluster: a, weight: 50}
    overrides: [{header: {x-group: beta}, variant: model-c}]
"""
        assert [(item.line, item.path, item.found) for item in problems(text)] == [
            (5, "experiments[0].unit[1]", "header x-user-id"),
            (6, "experiments[0].variants", "none"),
            (6, "experiments[0].variants", "60 + 50 = 110"),
            (8, "experiments[0].variants[1].name", "model-a"),
            (9, "experiments[0].overrides[0].variant", "model-c"),
        ]

    def test_unknown_clusters_are_named_where_they_are_used(self) -> None:
        text = "default_cluster: z\nclusters: {a: {host: h, port: 1}}\n" + SMALL
        assert [(item.line, item.path, item.found, item.allowed) for item in problems(text)] == [
            (1, "default_cluster", "z", "a"),
            (9, "experiments[0].variants[1].cluster", "b", "a"),
        ]

    def test_an_error_reads_as_one_line_a_problem(self) -> None:
        with pytest.raises(DocumentError) as caught:
            parse(with_line(SMALL, "weight: 10", "weight: ten"), "doc.yaml")
        assert str(caught.value) == (
            "doc.yaml:7: experiments[0].variants[1].weight: not a weight; found ten; "
            "allowed: a percentage from 0 to 100 with at most two decimals, such as 12.5"
        )

    def test_an_unknown_field_lists_the_known_ones_and_the_likeliest(self) -> None:
        found = problem(with_line(SMALL, "cluster: b,", "cluster: b, tiemout: 1s,"))
        assert found.path == "experiments[0].variants[1].tiemout"
        assert found.message == "unknown field; did you mean timeout?"
        assert found.allowed == "name, cluster, weight, control, timeout, price"

    @pytest.mark.parametrize(
        ("place", "known"),
        [
            ("nope: 1\n", "version, clusters, default_cluster, event_origins, journal, experiments"),
            ("clusters: {a: {host: h, port: 1, nope: 1}, b: {host: h, port: 1}}\n", "host, port, tls"),
            ("clusters: {a: {host: h, port: 1, tls: {nope: 1}}, b: {host: h, port: 1}}\n", "sni, ca_file"),
        ],
    )
    def test_unknown_fields_are_found_at_any_depth(self, place: str, known: str) -> None:
        assert (problem(place + SMALL).line, problem(place + SMALL).allowed) == (1, known)

    def test_a_missing_field_is_named_at_its_parent(self) -> None:
        found = problem(with_line(SMALL, "cluster: b, ", ""))
        assert (found.line, found.path, found.message) == (7, "experiments[0].variants[1].cluster", "missing field")

    def test_a_pattern_is_explained_in_words(self) -> None:
        assert problem(with_line(SMALL, "name: chat", "name: Chat")).allowed.startswith("a DNS label: ")

    def test_a_key_of_a_wrong_form_is_found_at_the_key(self) -> None:
        found = problem('clusters:\n  a: {host: h, port: 1}\n  "b c": {host: h, port: 1}\n' + SMALL)
        assert (found.line, found.path, found.found) == (3, 'clusters["b c"]', '"b c"')

    def test_a_header_that_abmesh_sets_cannot_be_matched_on(self) -> None:
        text = with_line(SMALL, "name: chat", "name: chat\n    match:\n      headers:\n        X-AB-Slice: x")
        found = problem(text)
        assert (found.line, found.found) == (6, "X-AB-Slice")
        assert "Envoy removes" in found.allowed

    @pytest.mark.parametrize(
        ("old", "new", "message", "allowed"),
        [
            ("name: chat", "name: 12", "must be a string", "quotes"),
            ("name: chat", "name: chat\n    slices: 9", "too small", "at least 10"),
            ("name: chat", "name: chat\n    slices: 101", "too large", "at most 100"),
            ("name: chat", 'name: chat\n    slices: "50"', "must be a whole number", "without quotes"),
            ("name: chat", "name: chat\n    slices: true", "must be a whole number", "whole number"),
            ("name: chat", "name: chat\n    lane: fast", "not one of the allowed values", "ext_proc or native"),
            ("name: chat", "name: chat\n    match: /v1", "must be a mapping", "name: value"),
            ("name: chat", "name: chat\n    events: click", "must be a list", "[in, brackets]"),
            ("name: chat", "name: chat\n    events: [A]", "not in the required form", "lower-case letters"),
            ("[{header: x-user-id}]", "[]", "too few", "at least 1"),
            ("[{header: x-user-id}]", "[{}]", "needs exactly one source", "header, cookie or query"),
            ("weight: 10}", "weight: 10, price: {input: -1, output: 1}}", "too small", "at least 0"),
            ("weight: 10}", "weight: 10, price: {input: .inf, output: 1}}", "must be a finite number", "finite"),
            ("weight: 10}", "weight: 10, timeout: 0s}", "a time limit of 0", "at least 1ms"),
            ("weight: 10}", "weight: 10, control: 1}", "must be true or false", "true or false"),
            ("version: 1", "version: 2", "this abmesh cannot read this version of the document", "1"),
            ("version: 1", "version: true", "this abmesh cannot read this version of the document", "1"),
            ("version: 1", "version: 1.0", "this abmesh cannot read this version of the document", "1"),
        ],
    )
    def test_a_wrong_field_says_what_is_allowed(self, old: str, new: str, message: str, allowed: str) -> None:
        found = problem(with_line(SMALL, old, new))
        assert found.message == message
        assert allowed in found.allowed
        assert found.line > 0

    def test_another_version_is_refused_for_that_alone(self) -> None:
        assert problem("version: 2\nmodels: {}\n").path == "version"

    def test_a_list_is_not_short_because_its_items_are_wrong(self) -> None:
        text = with_line(SMALL, "weight: 90", "weight: x")
        assert [item.message for item in problems(text)] == ["not a weight"]

    def test_what_is_found_is_shortened(self) -> None:
        found = problem(with_line(SMALL, "weight: 10", f"weight: {'x' * 500}"))
        assert len(found.found) == 60

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "the document is empty"),
            ("# nothing\n", "the document is empty"),
            ("---\n", "the document is empty"),
            ("[1]", "the document is not a mapping"),
            ("text", "the document is not a mapping"),
            ("version: 1\n---\nversion: 1\n", "a second YAML document"),
            ("%YAML 1.1\n---\nversion: 1\n", "unsupported version of YAML"),
            ("version: 1\n\texperiments: []\n", "not valid YAML: found character '\\t' that cannot start any token"),
            ("a: \x00", "a character that YAML does not allow"),
            ("a: \x07", "a character that YAML does not allow"),
            ("a: \ud800", "a character that YAML does not allow"),
            ("a: [1", "not valid YAML"),
            ("a: b: c", "not valid YAML"),
            ("a: 'x", "not valid YAML"),
            ("a: *b", "aliases (*name) are not supported"),
            ("a: &b 1", "anchors (&name) are not supported"),
            ("a: !!str 1", "tags (!type) are not supported"),
            ("a: !!python/object/apply:os.system [ls]", "tags (!type) are not supported"),
            ("<<: {a: 1}", "merge keys are not supported"),
            ("1: x", "the key is not a string"),
            ("null: x", "the key is not a string"),
            ("? [a]\n: x", "the key is not a string"),
            ("a: " + "9" * 5000, "the number is too long"),
            ("[" * 100_000, "values are nested too deeply"),
            ("{a: " * 100_000, "values are nested too deeply"),
            ("- " * 100_000, "values are nested too deeply"),
            ("#" * (1 << 20) + "\n", "the document is too large"),
            ("ü" * (1 << 19) + "\n", "the document is too large"),
        ],
    )
    def test_text_that_is_not_a_document_is_refused(self, text: str, message: str) -> None:
        assert problems(text)[0].message.startswith(message)

    def test_duplicate_keys_name_both_lines(self) -> None:
        found = problem("version: 1\nexperiments: []\nversion: 1\n")
        assert (found.line, found.path) == (3, "version")
        assert "line 1" in found.message

    def test_aliases_never_expand(self) -> None:
        bomb = "a: &a [x]\n" + "".join(f"{chr(98 + i)}: &{chr(98 + i)} [{f'*{chr(97 + i)},' * 9}]\n" for i in range(9))
        assert len(problems(bomb)) == 10  # one for each anchor: what is refused is not looked into

    def test_lines_are_right_under_every_line_ending(self) -> None:
        for newline in ("\n", "\r\n", "\r"):
            text = with_line(SMALL, "weight: 10", "weight: x").replace("\n", newline)
            assert problem(text).line == 7

    @examples(100, suppress_health_check=[HealthCheck.too_slow])
    @given(st.text() | st.text(alphabet="ab:-?!&*|>'\"%@`{}[],# \n\t\r1~<=.\\"))
    @example("%TAG ! tag:x,2000:\n--- !a\n")
    @example("? ")
    @example("- |0\n x")
    @example("a: |9999999999999999999999\n x")
    @example('"\\U00110000"')
    @example("%YAML 99999999999999999999.1\n--- a")
    @example("\ufeff")
    @example("\x85")
    def test_any_text_is_a_document_or_a_document_error(self, text: str) -> None:
        try:
            parse(text)
        except DocumentError as error:
            assert error.problems  # noqa: PT017 - a document is as good as an error here

    @examples(100)
    @given(st.data())
    def test_a_damaged_document_is_a_document_or_a_document_error(self, data: st.DataObject) -> None:
        text = data.draw(st.sampled_from([DEFAULT, SMALL, THREE]))
        for _ in range(data.draw(st.integers(1, 3))):
            start = data.draw(st.integers(0, len(text)))
            stop = data.draw(st.integers(start, min(len(text), start + 8)))
            bits = [
                "",
                " ",
                "\n",
                "\t",
                ":",
                "- ",
                "{",
                "}",
                "[",
                "]",
                "&a ",
                "*a",
                "!",
                "0",
                ".nan",
                "~",
                "'",
                '"',
                "🚀",
            ]
            text = text[:start] + data.draw(st.sampled_from(bits) | st.text(max_size=4)) + text[stop:]
        try:
            parse(text)
        except DocumentError as error:
            assert all(item.message for item in error.problems)  # noqa: PT017 - as above

    @examples(50)
    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(["version", "experiments", "name", "unit", "variants", "match", "headers", "x"]),
                    inner,
                    max_size=4,
                )
            ),
        )
    )
    def test_any_values_in_any_place_are_refused_with_a_line(self, value: object) -> None:
        text = json.dumps({"version": 1, "experiments": [value], "clusters": value})
        for item in problems(text.replace("NaN", ".nan").replace("Infinity", ".inf")):
            assert item.message
            assert "Input should" not in item.message

    @examples(50)
    @given(written())
    def test_documents_of_every_style_are_read(self, doc: Written) -> None:
        assert parse(doc.text).experiment("chat").weights == doc.weights


class TestJournalBound:
    @pytest.mark.parametrize(
        ("written", "said"),
        [
            ("{max_size: 64}", "found 64; allowed: a number with a unit (kB, MB or GB)"),
            ("{max_size: 99kB}", "from 100kB to 10GB"),
            ("{keep: 0}", "too small; found 0; allowed: at least 1"),
            ("{keep: 101}", "at most 100"),
            ("{keep: '8'}", "must be a whole number"),
            ("{size: 64MB}", "allowed: max_size, keep"),
        ],
    )
    def test_says_what_is_allowed(self, written: str, said: str) -> None:
        with pytest.raises(DocumentError) as caught:
            parse(f"version: 1\njournal: {written}\nexperiments: []\n")
        assert said in str(caught.value)

    def test_is_read_and_has_a_default(self) -> None:
        bound = parse("version: 1\njournal: {max_size: 1.5GB, keep: 2}\nexperiments: []\n").journal
        assert (bound.max_size, bound.keep) == (1_500_000_000, 2)
        bound = parse("version: 1\nexperiments: []\n").journal
        assert (bound.max_size, bound.keep) == (64_000_000, 8)


class TestJsonSchema:
    def test_names_its_dialect_and_title(self) -> None:
        schema = json_schema()
        assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
        assert schema["title"] == "abmesh experiments document"
        assert json.loads(json.dumps(schema)) == schema

    def test_describes_fields_as_they_are_written(self) -> None:
        parts = json_schema()["$defs"]
        weight = parts["Variant"]["properties"]["weight"]
        assert (weight["type"], weight["minimum"], weight["maximum"]) == ("number", 0, 100)
        # Multiples of 0.01 are not exact in binary: validators refuse 12.5 as no multiple of 0.01.
        assert "multipleOf" not in weight
        assert parts["Stage"]["properties"]["min_duration"]["type"] == "string"
        limits = parts["Guardrail"]["properties"]["max"]["anyOf"]
        assert {"string", "number", "null"} <= {option.get("type") for option in _flat(limits)}
        assert parts["Experiment"]["properties"]["lane"]["enum"] == ["ext_proc", "native"]
        assert {"type": "boolean"} in parts["Cluster"]["properties"]["tls"]["anyOf"]

    def test_explains_what_fields_mean_and_how_they_are_written(self) -> None:
        parts = json_schema()["$defs"]
        assert parts["Analysis"]["description"] == "How sure a decision must be."
        alpha = parts["Analysis"]["properties"]["alpha"]["description"]
        assert alpha.startswith("Highest probability, over a whole rollout")
        assert alpha.endswith("Write a percentage such as 5%, or a fraction from 0 to 1.")
        assert not re.search(r"``|:\w+:`|Attributes:", json.dumps(parts))
        fields = [field for part in parts.values() for field in part["properties"].values()]
        assert all(field["description"] for field in fields)

    def test_refuses_unknown_fields_everywhere(self) -> None:
        schema = json_schema()
        for part in (schema, *schema["$defs"].values()):
            if part.get("type") == "object":
                assert part["additionalProperties"] is False

    def test_every_reference_leads_somewhere(self) -> None:
        schema = json_schema()
        references = set(re.findall(r'"\$ref": "#/\$defs/(\w+)"', json.dumps(schema)))
        assert references == set(schema["$defs"])

    def test_requires_what_the_parser_requires(self) -> None:
        schema = json_schema()
        assert schema["required"] == ["version", "experiments"]
        assert schema["$defs"]["Variant"]["required"] == ["name", "cluster", "weight"]


def _flat(options: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [part for option in options for part in (_flat(option["anyOf"]) if "anyOf" in option else [option])]


def test_an_emoji_as_json_escapes_it_is_one_character_and_half_of_one_is_refused() -> None:
    text = json.dumps({"version": 1, "experiments": [], "\U0001f600": 1})
    with pytest.raises(DocumentError) as refused:
        parse(text)
    assert refused.value.problems[0].path == '["\U0001f600"]'
    for half in (r"\ud83d", r"\ude00\ud83d"):
        with pytest.raises(DocumentError, match="half of a character"):
            parse(f'{{"version": 1, "experiments": [], "event_origins": ["{half}"]}}')
