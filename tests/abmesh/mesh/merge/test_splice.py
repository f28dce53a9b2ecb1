"""An edit changes only its own lines, and taking out what was put in gives the same bytes."""

from __future__ import annotations

import difflib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abmesh.experiment.errors import RenderError
from abmesh.mesh.merge.look import get, plain
from abmesh.mesh.merge.splice import Editor
from abmesh.mesh.merge.tree import Mapping, Sequence, compose
from abmesh.mesh.yaml_text import to_yaml
from tests.examples import examples

BLOCK = """\
# A comment.
listeners:
  # The one.
  - name: one   # tail
    filters:

      - {name: a, on: true}
      # Last.
      - name: router
        text: |+
          kept

    empty: []
  -
    name: two
    more:
    - x
    - y: 'z'

# The end.
"""
FLOW = '{"listeners": [{"name": "one", "filters": [{"name": "a"}, {"name": "router"}]}, {"name": "two"}]}\n'
PRETTY = json.dumps(json.loads(FLOW), indent=4) + "\n"
TABS = json.dumps(json.loads(FLOW), indent="\t") + "\n"
CRLF = BLOCK.replace("\n", "\r\n")
ALL = pytest.mark.parametrize(
    "text", [BLOCK, CRLF, FLOW, FLOW.strip(), PRETTY, TABS], ids=["block", "crlf", "flow", "no end", "pretty", "tabs"]
)
NEW = {"name": "abmesh.x", "list": [1, {"a": None}], "text": "two\nlines\n", "empty": {}, "on": "no"}


def node(editor: Editor, *path: str | int) -> Any:
    found: Any = editor.root
    for step in path:
        found = found.items[step] if isinstance(step, int) else get(found, step)
    return found


def lines_changed(before: str, after: str) -> tuple[list[str], list[str]]:
    diff = list(difflib.ndiff(before.splitlines(), after.splitlines()))
    return [line[2:] for line in diff if line[:2] == "- "], [line[2:] for line in diff if line[:2] == "+ "]


@ALL
@pytest.mark.parametrize("place", [0, 1, 2])
def test_items_go_in_and_out_again(text: str, place: int) -> None:
    editor = Editor(text, "own.yaml")
    editor.insert(node(editor, "listeners", 0, "filters"), place, [NEW, NEW])
    made = editor.result()
    found = plain(compose(made, "own.yaml"))["listeners"][0]["filters"]
    assert found[place : place + 2] == [NEW, NEW]
    assert len(found) == 4
    back = Editor(made, "own.yaml")
    for at in (place, place + 1):
        back.drop_item(node(back, "listeners", 0, "filters"), at)
    assert back.result() == text


@ALL
def test_fields_go_in_and_out_again(text: str) -> None:
    editor = Editor(text, "own.yaml")
    editor.put(node(editor, "listeners", 0), ["metadata", "filter_metadata"], {"abmesh": NEW})
    editor.put(editor.root, ["stats"], [NEW])
    made = editor.result()
    found = plain(compose(made, "own.yaml"))
    assert found["listeners"][0]["metadata"] == {"filter_metadata": {"abmesh": NEW}}
    assert found["stats"] == [NEW]
    back = Editor(made, "own.yaml")
    back.drop(node(back, "listeners", 0), "metadata")
    back.drop(back.root, "stats")
    assert back.result() == text


@ALL
def test_a_field_is_replaced_and_put_back_as_it_was_written(text: str) -> None:
    editor = Editor(text, "own.yaml")
    raw = editor.raw(node(editor, "listeners", 0), "filters")
    editor.replace(node(editor, "listeners", 0), "filters", "other", NEW)
    made = editor.result()
    assert plain(compose(made, "own.yaml"))["listeners"][0]["other"] == NEW
    back = Editor(made, "own.yaml")
    back.put_raw(node(back, "listeners", 0), "other", raw)
    assert back.result() == text
    # The same, after somebody has converted the file.
    for reformatted in (json.dumps(plain(compose(made, ""))), json.dumps(plain(compose(made, "")), indent=1)):
        again = Editor(reformatted, "own.yaml")
        again.put_raw(node(again, "listeners", 0), "other", raw)
        assert plain(compose(again.result(), "")) == plain(compose(text, ""))


def test_untouched_lines_stay_and_comments_stay_with_their_item() -> None:
    editor = Editor(BLOCK, "own.yaml")
    editor.insert(node(editor, "listeners", 0, "filters"), 1, [{"name": "abmesh.x"}])
    made = editor.result()
    assert lines_changed(BLOCK, made) == ([], ["      - name: abmesh.x"])
    assert "      - name: abmesh.x\n      # Last.\n      - name: router\n" in made


def test_an_empty_collection_gives_way() -> None:
    editor = Editor(BLOCK, "own.yaml")
    editor.put(node(editor, "listeners", 0), ["empty"], [1])
    assert "    empty:\n      - 1\n" in editor.result()


def test_a_file_without_a_last_line_break_still_has_none() -> None:
    editor = Editor("a: 1", "own.yaml")
    editor.put(editor.root, ["b"], 2)
    assert editor.result() == "a: 1\nb: 2"


def test_a_value_with_an_unusual_line_separator_is_put_back_as_it_was() -> None:
    text = 'x:\n  a: "one\u2028 two\x85 three"\n'
    editor = Editor(text, "own.yaml")
    raw = editor.raw(node(editor, "x"), "a")
    editor.replace(node(editor, "x"), "a", "b", raw)
    back = Editor(editor.result(), "own.yaml")
    assert plain(back.root)["x"]["b"] == raw
    back.put_raw(node(back, "x"), "b", raw)
    assert back.result() == text


def test_objects_and_lists_grow_and_anything_else_is_left_alone() -> None:
    editor = Editor("a: {x: 1}\nb: [1]\nc: text\n", "own.yaml")
    editor.put(editor.root, ["a"], {"y": 2})
    editor.put(editor.root, ["b"], [2])
    with pytest.raises(RenderError, match=r"own\.yaml:3: c already holds something else"):
        editor.put(editor.root, ["c"], {"y": 2})
    assert editor.result() == 'a: {x: 1, "y": 2}\nb: [1, 2]\nc: text\n'


def test_what_is_shared_is_refused() -> None:
    editor = Editor("a: &x {p: 1}\nb: *x\nc:\n  <<: *x\n  q: 2\n", "own.yaml")
    with pytest.raises(RenderError, match=r"own\.yaml:1: this is used in several places through an anchor"):
        editor.put(node(editor, "a"), ["n"], 1)
    with pytest.raises(RenderError, match=r"own\.yaml:4: p comes from a merge key"):
        editor.put(node(editor, "c"), ["p"], {"n": 1})
    editor.put(node(editor, "c"), ["r"], 1)
    assert editor.result().endswith("  q: 2\n  r: 1\n")


def test_writing_that_cannot_be_edited_by_lines_is_refused_and_not_spoiled() -> None:
    editor = Editor("a:\n  - - 1\n    - 2\n", "own.yaml")
    with pytest.raises(RenderError, match="cannot edit safely"):
        editor.insert(node(editor, "a", 0), 0, [3])
    editor = Editor("? a\n: - 1\n", "own.yaml")
    with pytest.raises(RenderError, match="cannot edit safely"):
        editor.drop_item(node(editor, "a"), 0)
    editor = Editor("? a\n: 1\n? b\n: 2\n", "own.yaml")
    editor.replace(editor.root, "a", "c", {"d": 3})
    with pytest.raises(RenderError, match="cannot edit safely"):
        editor.result()


@pytest.mark.parametrize("text", ["a: [", "- 1\n", "", "a: 1\n---\nb: 2\n", "a: *x\n", "[1]: 2\n", "a:\n\t- b\n"])
def test_what_is_no_configuration_is_refused_with_its_place(text: str) -> None:
    with pytest.raises(RenderError, match=r"own\.yaml"):
        Editor(text, "own.yaml")


_TEXT = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=6) | st.sampled_from(
    ["no", "1", "a\nb\n"]
)
_VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | _TEXT,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(_TEXT.filter(lambda key: key not in ("", "<<")), inner, max_size=3)
    ),
    max_leaves=8,
)
_ROOT = st.fixed_dictionaries(
    {
        "list": st.lists(_VALUE, min_size=1, max_size=3),
        "object": st.dictionaries(st.sampled_from("abc"), _VALUE, min_size=1),
    }
)


@examples(25)
@given(_ROOT, st.sampled_from([None, 1, 4]), _VALUE, st.data())
def test_any_json_goes_in_and_out_of_any_json(root: Any, indent: int | None, value: Any, data: st.DataObject) -> None:
    text = json.dumps(root, indent=indent, ensure_ascii=False) + "\n"
    editor = Editor(text, "own.json")
    place = data.draw(st.integers(0, len(root["list"])))
    editor.insert(_sequence(editor), place, [value, value])
    editor.put(_mapping(editor), ["new"], value)
    back = Editor(editor.result(), "own.json")
    back.drop_item(_sequence(back), place)
    back.drop_item(_sequence(back), place + 1)
    back.drop(_mapping(back), "new")
    assert back.result() == text


@examples(40)
@given(_ROOT, _VALUE, st.data())
def test_anything_goes_in_and_out_of_commented_block_yaml(root: Any, value: Any, data: st.DataObject) -> None:
    lines = to_yaml({"before": {"x": 1}} | root | {"after": "no"}).splitlines()
    # Comments and blank lines between any two lines, but not inside a block of text.
    text, inside = "", 0
    for line in lines:
        indent = len(line) - len(line.lstrip(" "))
        inside = 0 if line.strip() and indent < inside else inside
        if not inside:
            text += data.draw(st.sampled_from(["", "", "", "\n", "# c\n", " " * indent + "# c: d\n", "\n\n# - x\n"]))
        text += line + (
            "\n"
            if inside
            else data.draw(st.sampled_from(["\n", "\n", "  # tail\n"]))
            if not line.endswith("|")
            else "\n"
        )
        if line.endswith("|"):
            inside = indent + 1
    editor = Editor(text, "own.yaml")
    assert plain(editor.root) == {"before": {"x": 1}} | root | {"after": "no"}
    place = data.draw(st.integers(0, len(root["list"])))
    editor.insert(_sequence(editor), place, [value, value])
    editor.put(_mapping(editor), ["new"], value)
    editor.put(editor.root, ["node", "metadata"], {"abmesh": value})
    back = Editor(editor.result(), "own.yaml")
    back.drop_item(_sequence(back), place)
    back.drop_item(_sequence(back), place + 1)
    back.drop(_mapping(back), "new")
    back.drop(back.root, "node")
    assert back.result() == text


def _sequence(editor: Editor) -> Sequence:
    found = get(editor.root, "list")
    assert isinstance(found, Sequence)
    return found


def _mapping(editor: Editor) -> Mapping:
    found = get(editor.root, "object")
    assert isinstance(found, Mapping)
    return found
