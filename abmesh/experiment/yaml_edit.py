"""Edits of YAML text that keep every other character. Pure; called by :mod:`abmesh.experiment.codec`.

The caller parses the result and checks that nothing else has changed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from abmesh.experiment.yaml_nodes import Collection, Node, Scalar
from abmesh.experiment.yaml_plain import resolve

_NEWLINE = re.compile(r"\r\n|\r|\n")
_COLON = re.compile(r"[ \t]*:")
# Unquoted, some YAML parsers read these as something else.
_NOT_PLAIN = {"y", "n", "yes", "no", "on", "off", "true", "false", "null"}


class NotEditable(Exception):  # noqa: N818 - never leaves the codec, which turns it into a WeightsError
    """The text is written in a style that no edit here supports."""


@dataclass(frozen=True, slots=True)
class Edit:
    """Replace the characters from ``start`` to ``end`` with ``text``."""

    start: int
    end: int
    text: str


def apply(text: str, edits: Sequence[Edit]) -> str:
    """The text after the edits, which must not overlap."""
    for edit in sorted(edits, key=lambda edit: edit.start, reverse=True):
        text = text[: edit.start] + edit.text + text[edit.end :]
    return text


def replace_scalar(node: Scalar, value: str) -> Edit:
    """Replace a value, in the same quotes."""
    if node.quote in ("|", ">"):
        raise NotEditable
    return Edit(node.start, node.end, f"{node.quote}{value}{node.quote}")


def put_mapping(
    text: str, mapping: Collection, name: str, values: Mapping[str, Sequence[Sequence[int]]], *, after: str
) -> Edit:
    """Set the field ``name`` of a mapping to lists of numbers by name, on one line.

    An existing field is replaced; a new one goes right after the field ``after``.
    """
    entries = {key.text: (key, value) for key, value in mapping.entries() if isinstance(key, Scalar)}
    if name in entries:
        return _replace(text, *entries[name], _flow(values, quoted=entries[name][0].quote))
    key, value = entries[after]
    if mapping.is_flow:
        flow = _flow(values, quoted=key.quote)
        return Edit(value.end, value.end, f", {key.quote}{name}{key.quote}: {flow}")
    line = f"{_indent(text, key)}{name}: {_flow(values, quoted='')}"
    newline = _NEWLINE.search(text, value.end)
    if text[value.end - 1] in "\r\n":  # a block scalar, which ends where the next line begins
        return Edit(value.end, value.end, line + _NEWLINE.findall(text)[0])
    if newline is None:
        found = _NEWLINE.search(text)
        return Edit(len(text), len(text), (found.group() if found else "\n") + line)
    return Edit(newline.end(), newline.end(), line + newline.group())


def _replace(text: str, key: Scalar, value: Node, flow: str) -> Edit:
    if value.start < value.end:
        start, end = value.start, value.end
        # A block scalar would end after its newline; no mapping is one.
        return Edit(start, end, flow)
    colon = _COLON.match(text, key.end)
    if colon is None:
        raise NotEditable
    return Edit(colon.end(), colon.end(), f" {flow}")


def _indent(text: str, key: Scalar) -> str:
    start = max(text.rfind("\n", 0, key.start), text.rfind("\r", 0, key.start)) + 1
    before = text[start : key.start].lstrip("\ufeff")
    if before.strip(" -"):
        raise NotEditable
    return " " * len(before)


def _flow(values: Mapping[str, Sequence[Sequence[int]]], *, quoted: str) -> str:
    parts = [
        f"{_key(name, quoted)}: [{', '.join(f'[{start}, {stop}]' for start, stop in ranges)}]"
        for name, ranges in values.items()
    ]
    return "{" + ", ".join(parts) + "}"


def _key(name: str, quoted: str) -> str:
    means_text = resolve(Scalar(name, "", 0, 0, 0)) == name
    if quoted == '"' or not means_text or not name[0].isalpha() or name in _NOT_PLAIN:
        return f'"{name}"'
    return name
