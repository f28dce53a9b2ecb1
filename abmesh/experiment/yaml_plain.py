"""The plain values of a tree of YAML nodes; YAML features that abmesh does not support are refused. Pure.

Plain scalars follow the core schema of YAML 1.2: ``yes`` is a string, ``010`` is ten. Called by
:mod:`abmesh.experiment.codec`.
"""

from __future__ import annotations

import re

from abmesh.experiment import yaml_nodes
from abmesh.experiment.errors import DocumentError, Problem
from abmesh.experiment.yaml_nodes import Node, Path, Scalar

_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_NO_NUMBER = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_WORDS = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_LONGEST_NUMBER = 40


def plain(root: Node, text: str, source: str) -> object:
    """The values of a tree: dict, list, str, int, float, bool and None.

    Raises:
        DocumentError: aliases, anchors, tags, duplicate or merged keys, keys that are not strings, numbers that are too
            long; every one is named.
    """
    problems: list[Problem] = []
    value = _value(root, (), text, problems)
    if problems:
        raise DocumentError(source, tuple(problems))
    return value


def _value(node: Node, path: Path, text: str, problems: list[Problem]) -> object:
    """Recursion is bounded by the depth that :func:`abmesh.experiment.yaml_nodes.compose` allows."""
    if node.refused:
        found = yaml_nodes.quote(node, text, path)
        problems.append(Problem(yaml_nodes.format_path(path), node.line, node.refused, found))
        return None
    if isinstance(node, Scalar):
        if _too_long(node):
            found = yaml_nodes.quote(node, text, path)
            problems.append(Problem(yaml_nodes.format_path(path), node.line, "the number is too long", found))
            return None
        return resolve(node)
    if not node.is_mapping:
        return [_value(item, (*path, index), text, problems) for index, item in enumerate(node.items)]
    values: dict[str, object] = {}
    lines: dict[str, int] = {}
    for key, item in node.entries():
        name = _key(key, path, text, problems)
        if name is None:
            continue
        if name in values:
            message = f"duplicate key; the first is on line {lines[name]}"
            problems.append(
                Problem(
                    yaml_nodes.format_path((*path, name)),
                    key.line,
                    message,
                    yaml_nodes.quote(key, text, (*path, name)),
                    "each key once",
                )
            )
        lines.setdefault(name, key.line)
        values[name] = _value(item, (*path, name), text, problems)
    return values


def _key(node: Node, path: Path, text: str, problems: list[Problem]) -> str | None:
    message, allowed = node.refused, ""
    if not message and isinstance(node, Scalar):
        if not node.quote and node.text == "<<":
            message, allowed = "merge keys are not supported", "the fields themselves, written out"
        elif not _too_long(node):
            name = resolve(node)
            if isinstance(name, str):
                return name
    shown = yaml_nodes.quote(node, text, path)
    if not message:
        message = "the key is not a string"
        allowed = f'quotes around it: "{shown}"' if shown and isinstance(node, Scalar) else "a string"
    problems.append(Problem(yaml_nodes.format_path(path), node.line, message, shown, allowed))
    return None


def _too_long(node: Scalar) -> bool:
    return not node.quote and len(node.text) > _LONGEST_NUMBER and _INT.fullmatch(node.text) is not None


def resolve(node: Scalar) -> str | int | float | bool | None:
    """The value of a scalar under the core schema of YAML 1.2."""
    text = node.text
    if node.quote:
        return text
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        base = {"0o": 8, "0x": 16}.get(text[:2], 10)
        return int(text[2:] if base != 10 else text, base)
    if _FLOAT.fullmatch(text):
        return float(text)
    if _NO_NUMBER.fullmatch(text):
        return float(text.replace(".", ""))
    return text
