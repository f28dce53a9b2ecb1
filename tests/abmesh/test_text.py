"""Other people's text in our messages: one line, bounded, nothing that moves a terminal's cursor."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abmesh.text import one_line, quoted, shorten


def test_lines_are_joined_by_a_bar() -> None:
    assert one_line(ValueError("a.yaml:1: bad\na.yaml:2: worse\n")) == "a.yaml:1: bad | a.yaml:2: worse"


@pytest.mark.parametrize(
    ("text", "longest", "shown"),
    [
        ("short", 60, "short"),
        ("two\n  lines\t", 60, "two lines"),
        ("x" * 60, 60, "x" * 60),
        ("x" * 61, 60, "x" * 57 + "..."),
        (" " * 5000 + "far away", 60, "..."),
        ({"a": 1}, 60, "{'a': 1}"),
    ],
)
def test_a_text_is_folded_and_cut(text: object, longest: int, shown: str) -> None:
    assert shorten(text, longest) == shown


@given(st.text(), st.integers(4, 100))
def test_a_shortened_text_is_one_line_within_bounds(text: str, longest: int) -> None:
    shown = shorten(text, longest)
    assert len(shown) <= longest
    assert len(shown.splitlines()) <= 1


@pytest.mark.parametrize(
    ("text", "shown"), [("a:b", "'a:b'"), ("\x1b[2J", r"'\x1b[2J'"), ("x" * 61, f"'{'x' * 60}'...")]
)
def test_what_a_person_typed_is_quoted(text: str, shown: str) -> None:
    assert quoted(text) == shown
