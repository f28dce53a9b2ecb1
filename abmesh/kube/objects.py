"""Experiments as Kubernetes holds them: read whole, with every problem named by its field. Pure.

An object from the API server is plain data, a manifest is text; both are refused in the words of the file's.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal, NamedTuple, Self

from pydantic import ConfigDict, ValidationError, model_validator

from abmesh.experiment import yaml_nodes, yaml_plain
from abmesh.experiment.cookie_rules import Cookies, cookie_problems
from abmesh.experiment.errors import DocumentError, Problem
from abmesh.experiment.fields import DnsLabel
from abmesh.experiment.forms import AS_OBJECT
from abmesh.experiment.model import Experiment
from abmesh.experiment.problems import Voice, problems_of
from abmesh.experiment.validation import Frozen, raise_all, refuse
from abmesh.experiment.yaml_nodes import Node
from abmesh.kube import wording
from abmesh.kube.spec import ExperimentSpec, to_experiment
from abmesh.kube.status import ExperimentStatus

GROUP: Final = "abmesh.dev"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"
KIND: Final = "Experiment"

_OURS: Final = re.compile(
    r"""^(?:["']?kind["']?\s*:\s*["']?Experiment\b| *(?:- +)?["']?apiVersion["']?\s*:\s*["']?abmesh\.dev/)""",
    re.MULTILINE,
)
_JSON: Final = re.compile(r"""["']?apiVersion["']?\s*:\s*["']?abmesh\.dev/""")
_BETWEEN: Final = re.compile(r"^---(?=\s|$).*$", re.MULTILINE)


class Metadata(Frozen):
    """What abmesh reads of an object's metadata.

    Attributes:
        name: the Experiment's name.
        namespace: the namespace that it is in.
    """

    model_config = ConfigDict(extra="ignore")

    name: DnsLabel
    namespace: DnsLabel | None = None


class Manifest(Frozen):
    """An Experiment as people apply it and as the API server gives it.

    Attributes:
        api_version: of the object's form.
        kind: Experiment.
        metadata: its name and namespace.
        spec: what people want.
        status: where the rollout stands; see :func:`read_status`.
    """

    api_version: Literal["abmesh.dev/v1alpha1"]
    kind: Literal["Experiment"]
    metadata: Metadata
    spec: ExperimentSpec
    status: dict[str, Any] | None = None


class ParsedObject(NamedTuple):
    """An Experiment that was read.

    Attributes:
        namespace: where it is.
        name: its own name.
        spec: what people wrote.
        experiment: what it stands for, at the spec's weights.
        line: where it begins in its text; 0 if it has none.
    """

    namespace: str
    name: str
    spec: ExperimentSpec
    experiment: Experiment
    line: int = 0


def parse(item: Mapping[str, Any]) -> ParsedObject:
    """Read an object of the API server.

    Raises:
        DocumentError: it is refused; carries every problem, with fields such as ``spec.variants[1].weight``.
    """
    metadata = item.get("metadata") or {}
    source = f"Experiment {metadata.get('namespace', '')}/{metadata.get('name', '')}"
    plain = {key: value for key, value in item.items() if key != "status"}
    try:
        return _checked(plain, "default")
    except _RefusedError as refused:
        # Problems quote values as they are written, and JSON is YAML too.
        text = json.dumps(plain)
        problems = _worded(refused, yaml_nodes.compose(text, source), text)
    raise DocumentError(source, tuple(dataclasses.replace(problem, line=0) for problem in problems))


def is_manifest(text: str) -> bool:
    """Whether a text holds objects of Kubernetes with an Experiment among them, and not an experiments document."""
    return bool(_OURS.search(text) or (text.lstrip().startswith("{") and _JSON.search(text)))


def parse_manifest(text: str, source: str, namespace: str = "default") -> tuple[ParsedObject, ...]:
    """Read the Experiments of a manifest; objects of other kinds are left out.

    Args:
        text: YAML, or JSON, of one object or several with ``---`` between them.
        source: what messages call the text, usually the file's path.
        namespace: where an object is that does not say it.

    Raises:
        DocumentError: one of them is refused; carries every problem of all of them, with their lines.
    """
    found: list[ParsedObject] = []
    problems: list[Problem] = []
    for part in _documents(text):
        root = yaml_nodes.compose(part, source)
        for at, data in _objects(yaml_plain.plain(root, part, source)):
            try:
                line = yaml_nodes.find(root, at)[0].line
                found.append(_checked(data, namespace, at)._replace(line=line))
            except _RefusedError as refused:
                problems += _worded(refused, root, part)
    problems += _twice(found)
    if not found and not problems:
        problems.append(Problem("", 0, "no Experiment", allowed=f"apiVersion: {API_VERSION}, kind: {KIND}"))
    if problems:
        raise DocumentError(source, tuple(problems))
    return tuple(found)


def read_status(item: Mapping[str, Any]) -> ExperimentStatus | None:
    """An object's status; None if the controller has not written one.

    Raises:
        DocumentError: it is not a status that this abmesh can read.
    """
    status = item.get("status")
    if not status:
        return None
    try:
        return ExperimentStatus.model_validate(status)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        path = yaml_nodes.format_path(("status", *first["loc"]))
        source = f"Experiment {item['metadata'].get('namespace', '')}/{item['metadata'].get('name', '')}"
        raise DocumentError(
            source, (Problem(path, 0, f"not a status that this abmesh can read: {first['msg']}"),)
        ) from error


class _CookieRules(Frozen):
    """The rules about cookies that a file applies to all of its experiments, for one."""

    experiment: Experiment

    @model_validator(mode="after")
    def _hold(self) -> Self:
        item = self.experiment
        found = cookie_problems([Cookies(item.name, item.unit, item.issue_cookie, item.counts_continuation)])
        contexts = [problem.context or {} for problem in found]
        # A file's paths begin with experiments[0].
        raise_all(refuse(c["message"], *c["path"][2:], found=c["found"], allowed=c["allowed"]) for c in contexts)
        return self


class _RefusedError(Exception):
    """What pydantic refused, and where it stands in the object."""

    def __init__(self, error: ValidationError, model: type[Frozen], at: yaml_nodes.Path) -> None:
        self.error, self.model, self.at = error, model, at
        super().__init__(str(error))


def _objects(data: object) -> Iterator[tuple[yaml_nodes.Path, dict[str, Any]]]:
    """The Experiments of a document, each with the path to it: the document itself, or the items of a list."""
    if not isinstance(data, dict):
        return
    if str(data.get("kind", "")).endswith("List") and isinstance(data.get("items"), list):
        for place, item in enumerate(data["items"]):
            yield from ((("items", place, *at), found) for at, found in _objects(item))
    elif data.get("kind") == KIND or str(data.get("apiVersion", "")).startswith(f"{GROUP}/"):
        yield (), data


def _checked(data: Mapping[str, Any], namespace: str, at: yaml_nodes.Path = ()) -> ParsedObject:
    try:
        manifest = Manifest.model_validate(data, by_alias=True, by_name=False, context=AS_OBJECT)
    except ValidationError as error:
        raise _RefusedError(error, Manifest, at) from error
    metadata, spec = manifest.metadata, manifest.spec
    where = metadata.namespace or namespace
    try:
        experiment = to_experiment(where, metadata.name, spec)
        _CookieRules.model_validate({"experiment": experiment})
    except ValidationError as error:
        raise _RefusedError(error, ExperimentSpec, (*at, "spec")) from error
    return ParsedObject(where, metadata.name, spec, experiment)


def _worded(refused: _RefusedError, root: Node, text: str) -> tuple[Problem, ...]:
    voice = Voice(refused.model, refused.at, wording.field, wording.words)
    return problems_of(refused.error, root, text, voice=voice)


def _documents(text: str) -> Iterator[str]:
    """Each document of a text, with blank lines in the place of those before it, so that line numbers hold."""
    starts = [0, *(found.end() for found in _BETWEEN.finditer(text))]
    ends = [*(found.start() for found in _BETWEEN.finditer(text)), len(text)]
    for start, end in zip(starts, ends, strict=True):
        part = text[start:end]
        if any(line.strip() and not line.lstrip().startswith("#") for line in part.splitlines()):
            yield "\n" * text.count("\n", 0, start) + part


def _twice(found: list[ParsedObject]) -> Iterator[Problem]:
    seen: set[tuple[str, str]] = set()
    for item in found:
        if (item.namespace, item.name) in seen:
            message = f"Experiment {item.namespace}/{item.name} appears twice"
            yield Problem("metadata.name", item.line, message, item.name, "each name once in a namespace")
        seen.add((item.namespace, item.name))
