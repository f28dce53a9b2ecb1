"""How a configuration is laid out: its lines, what stands between its brackets, how a value is written there. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping as JsonMapping
from typing import Any, Final

from abmesh.mesh.merge.tree import Mapping, Sequence
from abmesh.mesh.yaml_text import to_yaml

_STEP: Final = 2
"""Spaces by which a new block is indented below its parent."""


class Layout:
    """The layout of one text."""

    def __init__(self, text: str) -> None:
        self.text = text

    def entry(self, mapping: Mapping, key: str, value: Any) -> str:
        """A field as it is written in a mapping."""
        if mapping.is_flow:
            return f"{json.dumps(key)}: {self.flow(mapping, value)}"
        return indented(to_yaml({key: value}), mapping.column)

    def flow(self, node: Mapping | Sequence, value: Any) -> str:
        """A value as it is written between a collection's brackets."""
        lines = self._spread(node)
        if lines is None:
            return json.dumps(value, ensure_ascii=False)
        text = json.dumps(value, ensure_ascii=False, indent=_STEP)
        return text.replace("\n", "\n" + lines)

    def between(self, node: Mapping | Sequence) -> str:
        """What separates two items between a collection's brackets."""
        lines = self._spread(node)
        return ", " if lines is None else f",\n{lines}"

    def _spread(self, node: Mapping | Sequence) -> str | None:
        """The indentation of what is between brackets, if each is on a line of its own; else None."""
        starts = (
            [key.start for key, _ in node.entries] if isinstance(node, Mapping) else [it.start for it in node.items]
        )
        if not starts or "\n" not in self.text[node.start : starts[0]]:
            return None
        indent = self.text[self.line(starts[0]) : starts[0]]
        return indent if not indent.strip() else None

    def line(self, index: int) -> int:
        """Start of the line of an index."""
        return self.text.rfind("\n", 0, index) + 1

    def below(self, index: int) -> int:
        """Start of the line after that of an index."""
        return self.text.index("\n", index) + 1

    def dash(self, sequence: Sequence, place: int) -> int | None:
        """Start of the line with an item's dash; None if the dash is not where its line begins."""
        line = self.line(sequence.items[place].start)
        while line >= sequence.start - sequence.column:
            if self.text[line : line + sequence.column + 1] == " " * sequence.column + "-":
                return line
            if not line:
                break
            line = self.line(line - 1)
        return None

    def above(self, line: int) -> int:
        """Start of the comments directly above a line."""
        while line:
            above = self.line(line - 1)
            if not self.text[above:line].lstrip().startswith("#"):
                break
            line = above
        return line


def spans(node: Mapping | Sequence) -> list[tuple[int, int]]:
    """Where each item of a collection begins and ends in the text."""
    if isinstance(node, Mapping):
        return [(key.start, value.end) for key, value in node.entries]
    return [(item.start, item.end) for item in node.items]


def runs(places: list[int]) -> list[tuple[int, int]]:
    """Neighbours in a rising list, as first and last."""
    found: list[tuple[int, int]] = []
    for place in places:
        if found and found[-1][1] == place - 1:
            found[-1] = found[-1][0], place
        else:
            found.append((place, place))
    return found


def indented(text: str, column: int) -> str:
    """Lines moved to the right; empty ones stay empty."""
    indent = " " * column
    return "".join(indent + line if line.strip() else line for line in lines_of(text))


def lines_of(text: str) -> list[str]:
    """The lines, each with its end. Only line feeds end one: YAML keeps other separators inside a value."""
    return re.findall(r"[^\n]*\n|[^\n]+", text)


def block_item(value: Any, column: int) -> str:
    """An item of a block sequence whose dashes are at a column."""
    if not isinstance(value, JsonMapping) or not value:
        return f"{' ' * column}- {json.dumps(value, ensure_ascii=False)}\n"
    text = indented(to_yaml(value), column + _STEP)
    return f"{' ' * column}- {text[column + _STEP :]}"
