"""The experiments document as text: reading it with every problem named, editing its weights, its JSON Schema. Pure.

Called by :mod:`abmesh.experiment.store` and by whoever has the text at hand. A person's file is never written anew: an
edit replaces the characters of the weights that change, and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pydantic import ValidationError

from abmesh.experiment import yaml_edit, yaml_nodes, yaml_plain
from abmesh.experiment.bucketing import reallocate
from abmesh.experiment.errors import DocumentError, Problem, UnknownName, WeightsError
from abmesh.experiment.explain import explain
from abmesh.experiment.model import Document, Experiment
from abmesh.experiment.names import BUCKETS, DEFAULT_CONFIG
from abmesh.experiment.quantities import format_weight
from abmesh.experiment.yaml_nodes import Collection, Node, Scalar

VERSIONS: Final = (1,)
"""Versions of the document that can be read."""

Ranges = Mapping[str, tuple[tuple[int, int], ...]]


def parse(text: str, source: str = DEFAULT_CONFIG) -> Document:
    """The document that a text holds.

    Problems come in three layers, and the first that has any ends the search: what is no YAML or no plain data, fields
    that are wrong on their own, and rules between fields. Within a layer all of them are named.

    Args:
        text: YAML 1.2, at most 1 MiB.
        source: what to call it in messages, as a rule the file's path.

    Raises:
        DocumentError: the text is refused; carries every problem found.
    """
    return _load(text, source)[0]


def _load(text: str, source: str) -> tuple[Document, Node]:
    root = yaml_nodes.compose(text, source)
    data = yaml_plain.plain(root, text, source)
    if not isinstance(data, dict):
        found, allowed = yaml_nodes.quote(root, text, ()), "a mapping that starts with version: 1"
        raise DocumentError(source, (Problem("", root.line, "the document is no mapping", found, allowed),))
    _check_version(data, root, text, source)
    try:
        return Document.model_validate(data), root
    except ValidationError as error:
        raise DocumentError(source, explain(error, Document, root, text)) from error


def _check_version(data: Mapping[str, object], root: Node, text: str, source: str) -> None:
    """A document of another version is no version 1 with a hundred unknown fields: it is refused for that alone."""
    version = data.get("version", VERSIONS[0])
    if type(version) is int and version in VERSIONS:
        return
    node, key, _ = yaml_nodes.find(root, ("version",))
    line = (key or node).line
    message = "a version of the document that this abmesh does not read"
    allowed = ", ".join(map(str, VERSIONS))
    raise DocumentError(
        source, (Problem("version", line, message, yaml_nodes.quote(node, text, ("version",)), allowed),)
    )


def edit_weights(text: str, experiment: str, weights: Mapping[str, int], source: str = DEFAULT_CONFIG) -> str:
    """The text with new weights for an experiment, and every other character as it was.

    Where the experiment has more than two variants, or already has ``ranges``, its ranges are fitted to the new
    weights with the fewest moves and written with them.

    Args:
        text: a valid document.
        experiment: name of the experiment.
        weights: basis points by variant; variants that are not named keep theirs.
        source: what to call the text in messages.

    Raises:
        DocumentError: the text is no valid document.
        UnknownName: it has no such experiment or variant.
        WeightsError: the weights do not sum to 100, or the text cannot be edited without changing anything else.
    """
    return edit(text, experiment, weights, source)[0]


def edit(text: str, experiment: str, weights: Mapping[str, int], source: str = DEFAULT_CONFIG) -> tuple[str, Document]:
    """As :func:`edit_weights`; also returns the document that the new text holds."""
    document, root = _load(text, source)
    before = document.experiment(experiment)
    wanted = _checked(before, weights)
    if wanted == before.weights:
        return text, document
    ranges = None
    if before.ranges is not None or len(wanted) > 2:
        ranges = reallocate(before.effective_ranges, wanted)
    expected = _expected(document, before, wanted, ranges)
    index = document.experiments.index(before)
    try:
        edited = _edited(text, root, index, before, wanted, ranges)
        after = parse(edited, source)
    except (DocumentError, yaml_edit.NotEditable) as error:
        raise _not_editable(source, experiment) from error
    if after != expected:
        raise _not_editable(source, experiment)
    return edited, after


def _checked(experiment: Experiment, weights: Mapping[str, int]) -> dict[str, int]:
    present = experiment.weights
    for name in weights:
        if name not in present:
            raise UnknownName("variant", name, tuple(present))
    wanted = {**present, **weights}
    total = sum(wanted.values())
    if total != BUCKETS or min(wanted.values()) < 0:
        shown = " + ".join(f"{name} {format_weight(weight)}" for name, weight in wanted.items())
        raise WeightsError(f"weights must be at least 0 and sum to exactly 100; found {shown} = {format_weight(total)}")
    return wanted


def _expected(document: Document, before: Experiment, weights: Mapping[str, int], ranges: Ranges | None) -> Document:
    variants = tuple(variant.model_copy(update={"weight": weights[variant.name]}) for variant in before.variants)
    after = before.model_copy(update={"variants": variants, "ranges": ranges})
    experiments = tuple(after if item is before else item for item in document.experiments)
    return document.model_copy(update={"experiments": experiments})


def _not_editable(source: str, experiment: str) -> WeightsError:
    return WeightsError(
        f"{source}: the weights of {experiment} cannot be changed without changing anything else; "
        "write its variants as a plain list, one field a line, or edit the weights by hand"
    )


def _edited(
    text: str, root: Node, index: int, before: Experiment, weights: Mapping[str, int], ranges: Ranges | None
) -> str:
    edits = []
    for place, variant in enumerate(before.variants):
        if weights[variant.name] != variant.weight:
            node, _, _ = yaml_nodes.find(root, ("experiments", index, "variants", place, "weight"))
            assert isinstance(node, Scalar)
            edits.append(yaml_edit.replace_scalar(node, format_weight(weights[variant.name])))
    if ranges is not None:
        home, _, _ = yaml_nodes.find(root, ("experiments", index))
        assert isinstance(home, Collection)
        edits.append(yaml_edit.put_mapping(text, home, "ranges", ranges, after="variants"))
    return yaml_edit.apply(text, edits)


def json_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of the document, for editors."""
    schema = Document.model_json_schema()
    title = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "abmesh experiments document"}
    return {**title, **{key: value for key, value in schema.items() if key not in title}}
