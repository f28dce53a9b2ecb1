from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from abmesh.mesh.bootstrap import render_bootstrap
from abmesh.mesh.options import RenderOptions
from abmesh.mesh.yaml_text import to_yaml
from tests.abmesh.mesh.documents import document
from tests.examples import examples

SURPRISES = [
    "n",
    "No",
    "on",
    "YES",
    "off",
    "y",
    "true",
    "null",
    "~",
    "1:30",
    "0x1f",
    "1e3",
    "1_000",
    "010",
    ".5",
    ".inf",
]
SURPRISES += ["", " a", "a ", "a: b", "a #b", "- a", "@type", "%REQ(x)%", "*", "&a", "!a", "'", '"', "\\", "2026-11-22"]
SURPRISES += ["=", "<<", "[]", "{}", "127.0.0.1", "é", "a\nb", "\x7f", "|", ">", "?", ":", "-", "---", "..."]

_LINES = st.lists(st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=6), max_size=4)
_TEXT = st.sampled_from(SURPRISES) | _LINES.map(lambda lines: "\n".join([*lines, ""])) | st.text(max_size=10)
_PLAIN = st.recursive(
    st.booleans() | st.integers() | st.floats(0.01, 1000).map(lambda number: round(number, 2)) | _TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3),
    max_leaves=10,
)


def read(text: str, version: str) -> Any:
    yaml = YAML(typ="safe", pure=True)
    yaml.version = version
    return yaml.load(text)


@pytest.mark.parametrize("version", ["1.1", "1.2"])
@examples(40)
@given(value=st.dictionaries(_TEXT, _PLAIN, max_size=4))
def test_readers_of_either_version_read_what_was_meant(version: str, value: dict[str, Any]) -> None:
    assert read(to_yaml(value), version) == value


@pytest.mark.parametrize("text", SURPRISES)
def test_text_that_a_reader_could_take_for_something_else_is_quoted(text: str) -> None:
    assert to_yaml({"a": text}).startswith('a: "')


def test_plain_text_stays_plain() -> None:
    for text in ("chat-model/model-b", "type.googleapis.com/a.b.C", "0.250s", "30s", "/v1/", "STATIC"):
        assert to_yaml({"a": text}) == f"a: {text}\n"


def test_the_order_is_kept_and_nothing_is_an_alias() -> None:
    shared = {"z": [1]}
    assert to_yaml({"b": shared, "a": shared}) == "b:\n  z:\n    - 1\na:\n  z:\n    - 1\n"


def test_the_same_document_is_always_the_same_text() -> None:
    first = to_yaml(render_bootstrap(document(), RenderOptions()))
    assert first == to_yaml(render_bootstrap(document(), RenderOptions()))
    assert all(len(line) < 200 for line in first.splitlines())


SCRIPTS = ["a = 1\nb = 2\n", "a\n\n  b\n", "# no\n- on\n", "a:\n---\nb\n"]


@pytest.mark.parametrize("text", SCRIPTS)
def test_a_script_can_be_read_line_by_line(text: str) -> None:
    written = to_yaml({"a": {"b": text}, "c": "d"})
    assert written.startswith("a:\n  b: |\n    " + text.splitlines()[0])
    assert read(written, "1.1") == {"a": {"b": text}, "c": "d"}
