"""YAML text as a small tree of nodes with their positions in the text.

Pure; called by :mod:`abmesh.experiment.codec`.

ruamel.yaml scans and parses; the tree is built here from its events, so that nesting costs no recursion, nothing is
executed or expanded, and an edit can replace the characters of one value and keep all others.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    CollectionStartEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
)

from abmesh.experiment.errors import DocumentError, Problem
from abmesh.text import shorten

LONGEST: Final = 1 << 20
"""Most bytes of a document."""

_DEEPEST = 32
_MOST_NODES = 200_000
SHOWN: Final = 60
"""Most characters of a value that a problem quotes."""

_WARMUP = "warmup"
_CHECKS = "checks"
_SECRETS = ("secret_salt", "keys", "saltFile", "keyFiles")
_PRIVATE_WORDS = (_WARMUP, _CHECKS, *_SECRETS)
"""Fields in which somebody may have written a secret, even where its place belongs."""

_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

# What ruamel.yaml raises, or might raise, for text that is not YAML, apart from its own errors.
_PARSER_ERRORS: Final[tuple[type[Exception], ...]] = (
    YAMLError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
    AssertionError,
    NameError,
)
_NEWLINE = re.compile(r"\r\n|\r|\n")
_SURROGATE = re.compile("[\ud800-\udfff]")
_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")

Path: TypeAlias = tuple[str | int, ...]


@dataclass(slots=True)
class Scalar:
    """One value.

    Attributes:
        text: the value without quotes.
        quote: ``'``, ``"``, ``|`` or ``>``; empty for a plain scalar.
        start: index of its first character in the source.
        end: index after its last one.
        line: 1-based.
        refused: why abmesh refuses it although it is valid YAML; empty if it does not.
    """

    text: str
    quote: str
    start: int
    end: int
    line: int
    refused: str = ""


@dataclass(slots=True)
class Collection:
    """A sequence, whose ``items`` are its values, or a mapping, whose ``items`` are keys and values in turn.

    ``end`` is the index after the last character of its last value, or after the closing bracket of a flow one.
    """

    is_mapping: bool
    is_flow: bool
    start: int
    end: int
    line: int
    refused: str = ""
    items: list[Node] = field(default_factory=list)

    def entries(self) -> Iterator[tuple[Node, Node]]:
        """Keys and values of a mapping."""
        return zip(self.items[::2], self.items[1::2], strict=True)


Node: TypeAlias = Scalar | Collection


def compose(text: str, source: str) -> Node:
    """The tree of a text that holds one YAML document.

    Raises:
        DocumentError: the text is not YAML, too long, too deep, empty, or more than one document.
    """
    size = len(text) if len(text) > LONGEST else len(text.encode(errors="surrogatepass"))
    if size > LONGEST:
        problem = Problem("", 0, "the document is too large", f"{size} bytes", f"at most {LONGEST} bytes")
        raise DocumentError(source, (problem,))
    unprintable = _UNPRINTABLE.search(text, 1 if text.startswith("\ufeff") else 0)
    if unprintable:
        line = len(_NEWLINE.findall(text, 0, unprintable.start())) + 1
        found = f"character U+{ord(unprintable.group()):04X}"
        raise DocumentError(
            source, (Problem("", line, "a character that YAML does not allow", found, "printable text"),)
        )
    try:
        root = _build(text, source)
    except DocumentError:
        raise
    except _PARSER_ERRORS as error:
        raise DocumentError(source, (_syntax_problem(error, text),)) from error
    if root is None or (isinstance(root, Scalar) and not root.quote and not root.text and not root.refused):
        allowed = "a mapping that starts with version: 1"
        raise DocumentError(source, (Problem("", 1, "the document is empty", allowed=allowed),))
    return root


def _build(text: str, source: str) -> Node | None:
    root: Node | None = None
    stack: list[Collection] = []
    count = 0
    documents = 0
    last_end = 0
    for event in _events(text):
        if isinstance(event, DocumentStartEvent):
            documents += 1
            _check_document_start(event, documents, source)
            continue
        if isinstance(event, MappingEndEvent | SequenceEndEvent):
            closed = stack.pop()
            # A block collection ends where its last value ends; the event's mark is at the next token.
            last_end = closed.end = event.end_mark.index if closed.is_flow else last_end
            continue
        node = _node(event)
        if node is None:
            continue
        if isinstance(node, Scalar):
            if node.start == node.end:  # an absent value: the event's mark is at the next token
                node.start = node.end = last_end
            last_end = node.end
        count += 1
        if count > _MOST_NODES:
            raise DocumentError(source, (Problem("", node.line, "too many values", allowed=f"at most {_MOST_NODES}"),))
        if stack:
            stack[-1].items.append(node)
        else:
            root = node
        if isinstance(node, Collection):
            stack.append(node)
            if len(stack) > _DEEPEST:
                problem = Problem("", node.line, "values are nested too deeply", allowed=f"at most {_DEEPEST} levels")
                raise DocumentError(source, (problem,))
    return root


def _events(text: str) -> Iterator[Any]:
    events: Iterator[Any] = YAML(typ="safe", pure=True).parse(text)
    return events


def _check_document_start(event: Any, documents: int, source: str) -> None:
    line = event.start_mark.line + 1
    if documents > 1:
        raise DocumentError(source, (Problem("", line, "a second YAML document", "---", "one document per file"),))
    if event.version not in (None, (1, 2)):
        found = "%YAML " + ".".join(map(str, event.version))
        raise DocumentError(source, (Problem("", 1, "unsupported version of YAML", found, "YAML 1.2"),))


def _node(event: Any) -> Node | None:
    """The node that an event begins; None for events that are not about a node."""
    if not isinstance(event, ScalarEvent | CollectionStartEvent | AliasEvent):
        return None
    start, end, line = event.start_mark.index, event.end_mark.index, event.start_mark.line + 1
    if isinstance(event, AliasEvent):
        return Scalar("", "", start, end, line, "aliases (*name) are not supported: write the value out")
    refused = ""
    if event.anchor is not None:
        refused = "anchors (&name) are not supported: remove it"
    elif event.ctag is not None:
        refused = "tags (!type) are not supported: remove it"
    if isinstance(event, ScalarEvent):
        value = _with_pairs_joined(event.value)
        if _SURROGATE.search(value):
            refused = refused or "half of a character: \\ud800 to \\udfff stand for a character in pairs only"
        return Scalar(value, event.style or "", start, end, line, refused)
    return Collection(isinstance(event, MappingStartEvent), bool(event.flow_style), start, start, line, refused)


def _with_pairs_joined(text: str) -> str:
    """The text with surrogate pairs as the characters that they stand for: JSON escapes an emoji as two of escapes."""
    return _PAIR.sub(lambda pair: pair.group().encode("utf-16", "surrogatepass").decode("utf-16"), text)


def _syntax_problem(error: BaseException, text: str) -> Problem:
    if not isinstance(error, MarkedYAMLError):
        return Problem("", 0, "not valid YAML")
    mark = error.problem_mark or error.context_mark
    line = mark.line + 1 if mark is not None else 0
    lines = _NEWLINE.split(text)
    found = shorten(lines[line - 1], SHOWN) if 0 < line <= len(lines) else ""
    if any(word in before for before in lines[:line] for word in _PRIVATE_WORDS):
        found = ""  # invalid YAML has no paths, so this may be a line of a warm-up's headers, or a secret
    message = f"not valid YAML: {error.problem or error.context}"
    allowed = "spaces; YAML cannot be indented with tabs" if "'\\t'" in message else ""
    return Problem("", line, " ".join(message.split()), found, allowed)


def find(root: Node, path: Sequence[str | int]) -> tuple[Node, Node | None, int]:
    """Follow a path as far as it leads.

    Keys match in any case, since the models keep header names in lower case.

    Returns:
        The last node reached, the key that led to it (None for a sequence's item or the root), and how many steps of
        the path were followed.
    """
    node, key = root, None
    for done, step in enumerate(path):
        if not isinstance(node, Collection) or node.is_mapping != isinstance(step, str):
            return node, key, done
        if isinstance(step, int):
            if step >= len(node.items):
                return node, key, done
            node, key = node.items[step], None
            continue
        wanted = str(step)
        entries = [(name, value) for name, value in node.entries() if isinstance(name, Scalar)]
        exact = [entry for entry in entries if entry[0].text == wanted]
        matching = exact or [entry for entry in entries if entry[0].text.lower() == wanted]
        if not matching:
            return node, key, done
        key, node = matching[0]
    return node, key, len(path)


def quote(node: Node, text: str, path: Sequence[str | int]) -> str:
    """A node as it is written in the source, shortened to one line; empty if it may hold a secret."""
    written = text[node.start : node.end]
    if is_private(path):
        return ""
    inside = _WARMUP in path or _CHECKS in path
    if isinstance(node, Collection) and (inside or any(word in written for word in _PRIVATE_WORDS)):
        return ""
    return shorten(written, SHOWN) or "nothing"


def is_private(path: Sequence[str | int]) -> bool:
    """Whether the value at a path must not be shown: problems are logged.

    A warm-up and a check may carry credentials, and whoever misreads how a secret is named writes the secret itself.
    """
    if not set(_SECRETS).isdisjoint(path):
        return True
    if _CHECKS in path and not {"headers", "webhook", "address"}.isdisjoint(path):
        return True
    return any(above == _WARMUP and step in ("headers", "body") for above, step in itertools.pairwise(path))


def format_path(path: Sequence[str | int]) -> str:
    """A path as people write it: ``experiments[0].match.path_prefix``."""
    parts: list[str] = []
    for step in path:
        if isinstance(step, int):
            parts.append(f"[{step}]")
        elif re.fullmatch(r"[A-Za-z0-9_-]{1,60}", step):
            parts.append(f".{step}" if parts else step)
        else:
            parts.append(f"[{json.dumps(shorten(step, SHOWN), ensure_ascii=False)}]")
    return "".join(parts)
