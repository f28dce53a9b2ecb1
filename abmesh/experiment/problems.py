"""What pydantic finds wrong with a document, in words that its author can act on.

Pure; called by :mod:`abmesh.experiment.codec`.

Every error becomes a :class:`~abmesh.experiment.errors.Problem` that names the field's path and line, the value found
(unless it may be a secret), and what is allowed. pydantic's own wording ("Input should be ...") never reaches the user.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from abmesh.experiment import field_names, yaml_nodes
from abmesh.experiment.errors import Problem
from abmesh.experiment.field_names import OldName
from abmesh.experiment.fields import FORMS
from abmesh.experiment.model import Document
from abmesh.experiment.validation import Frozen, did_you_mean
from abmesh.experiment.yaml_nodes import Collection, Node, Path, Scalar
from abmesh.text import shorten

_OWN = ("weight", "duration", "limit", "share", "size", "rate")
_LIST = ("must be a list", "a list: one item per line, each after -, or [in, brackets]")
_MAPPING = ("must be a mapping", "fields, each as name: value")
_WHOLE = ("must be a whole number", "a whole number without quotes")
_NUMBER = ("must be a number", "a number without quotes")
_FLAG = ("must be true or false", "true or false, without quotes")

_PLAIN: dict[str, tuple[str, str]] = {
    "string_type": ("must be a string", "a string; put quotes around it if it looks like a number, true or false"),
    "int_type": _WHOLE,
    "int_from_float": _WHOLE,
    "int_parsing": _WHOLE,
    "int_parsing_size": _WHOLE,
    "float_type": _NUMBER,
    "float_parsing": _NUMBER,
    "finite_number": ("must be a finite number", "a finite number"),
    "bool_type": _FLAG,
    "bool_parsing": _FLAG,
    "tuple_type": _LIST,
    "list_type": _LIST,
    "dict_type": _MAPPING,
    "model_type": _MAPPING,
    "model_attributes_type": _MAPPING,
}
"""Message and what is allowed, by pydantic's error type."""

_BOUNDS: dict[str, tuple[str, str, str]] = {
    "greater_than_equal": ("too small", "at least {}", "ge"),
    "greater_than": ("too small", "more than {}", "gt"),
    "less_than_equal": ("too large", "at most {}", "le"),
    "less_than": ("too large", "less than {}", "lt"),
}


@dataclass(frozen=True, slots=True)
class Voice:
    """How the problems of a form are told.

    Attributes:
        model: what was validated.
        at: where that stands in the text.
        field: a field's name as the form has it.
        words: a message with every field's name as the form has it.
    """

    model: type[Frozen] = Document
    at: Path = ()
    field: Callable[[str], str] = str
    words: Callable[[str], str] = str

    def path(self, steps: Sequence[str | int]) -> Path:
        """A path of fields as the form has it."""
        return tuple(self.field(step) if isinstance(step, str) else step for step in steps)


FILE = Voice()


def problems_of(
    error: ValidationError, root: Node, text: str, old_names: Sequence[OldName] = (), voice: Voice = FILE
) -> tuple[Problem, ...]:
    """Everything that is wrong, in the order of the lines.

    Args:
        error: what pydantic raised for the document.
        root: the document's tree.
        text: the document.
        old_names: fields that the document calls by old names; problems call them as the document does.
        voice: how the document's form is told.
    """
    problems = [
        problem
        for detail in error.errors(include_url=False, include_input=False)
        for problem in _problems(
            detail, (*voice.at, *field_names.as_written(detail["loc"], old_names)), root, text, voice
        )
    ]
    return tuple(sorted(dict.fromkeys(problems), key=lambda problem: problem.line))


def _problems(detail: ErrorDetails, loc: Path, root: Node, text: str, voice: Voice) -> Iterator[Problem]:
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "invariants":
        for problem in context["problems"]:
            yield _broken_rule(problem, loc, root, text, voice)
    elif kind == "invariant":
        yield _broken_rule(context, loc, root, text, voice)
    elif kind == "extra_forbidden":
        yield _unknown_field(loc, root, text, voice)
    elif kind == "missing":
        node, key, _ = yaml_nodes.find(root, loc)
        yield Problem(yaml_nodes.format_path(loc), key.line if key is not None else node.line, "missing field")
    elif kind in ("too_short", "too_long"):
        yield from _wrong_length(loc, context, root)
    else:
        node, key, done = yaml_nodes.find(root, loc)
        if loc and loc[-1] == "[key]" and key is not None:
            node = key
        message, allowed = _wording(kind, detail["msg"], context)
        line = key.line if key is not None else node.line
        yield Problem(yaml_nodes.format_path(loc[:done]), line, message, yaml_nodes.quote(node, text, loc), allowed)


def _broken_rule(context: Mapping[str, Any], loc: Path, root: Node, text: str, voice: Voice) -> Problem:
    """A rule of ours; its path goes on from the model that has the rule."""
    path = (*loc, *voice.path(context["path"]))
    node, key, done = yaml_nodes.find(root, path)
    found = "" if yaml_nodes.is_private(path) else voice.words(context["found"])
    if not found and done == len(path):
        found = yaml_nodes.quote(node, text, path)
    line = key.line if key is not None else node.line
    # A value in short form, such as an event that is only a name, has no fields that a path could lead to.
    shown_path = yaml_nodes.format_path(path[:done] if isinstance(node, Scalar) else path)
    message, allowed = voice.words(context["message"]), voice.words(context["allowed"])
    return Problem(shown_path, line, message, shorten(found, yaml_nodes.SHOWN), allowed)


def _wrong_length(loc: Sequence[str | int], context: Mapping[str, Any], root: Node) -> Iterator[Problem]:
    """A list with too few or too many items; not one that pydantic finds short because some items are refused."""
    node, key, _ = yaml_nodes.find(root, loc)
    assert isinstance(node, Collection)
    count = len(node.items) // 2 if node.is_mapping else len(node.items)
    least, most = context.get("min_length", 0), context.get("max_length")
    if count < least or (most is not None and count > most):
        message, allowed = ("too few", f"at least {least}") if count < least else ("too many", f"at most {most}")
        line = key.line if key is not None else node.line
        yield Problem(yaml_nodes.format_path(loc), line, message, str(count), allowed)


def _unknown_field(loc: Path, root: Node, text: str, voice: Voice) -> Problem:
    node, key, _ = yaml_nodes.find(root, loc)
    name = str(loc[-1])
    known = tuple(map(voice.field, field_names.known(loc[len(voice.at) : -1], voice.model)))
    message = did_you_mean("unknown field", name, known)
    key = key or node
    return Problem(yaml_nodes.format_path(loc), key.line, message, yaml_nodes.quote(key, text, loc), ", ".join(known))


def _wording(kind: str, message: str, context: Mapping[str, Any]) -> tuple[str, str]:
    """Message and what is allowed for an error of a field on its own."""
    if kind in _OWN:
        return message, context["allowed"]
    if kind in _PLAIN:
        return _PLAIN[kind]
    if kind == "string_too_long":
        return "too long", f"at most {context['max_length']} characters"
    if kind == "string_too_short":
        return "too short", f"at least {context['min_length']} character{'s' if context['min_length'] > 1 else ''}"
    if kind in _BOUNDS:
        wording, allowed, bound = _BOUNDS[kind]
        return wording, allowed.format(f"{context[bound]:.12g}")
    if kind == "string_pattern_mismatch":
        pattern = str(context["pattern"])
        return "not in the required form", FORMS.get(pattern, f"a string that matches {pattern}")
    if kind == "literal_error":
        return "not one of the allowed values", str(context["expected"]).replace("'", "")
    plain = message.removeprefix("Input ").removeprefix("should ")
    return f"not valid: it should {plain}" if message.startswith("Input should ") else message, ""
