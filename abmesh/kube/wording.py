"""Messages of the models as an object's author reads them: fields in camelCase. Pure.

The models word what is wrong with a file and with an object alike, and call fields by their Python names, as files do.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import Any, get_args

from pydantic.alias_generators import to_camel

from abmesh.experiment.model import Experiment
from abmesh.experiment.validation import Frozen
from abmesh.kube.spec import ExperimentSpec


def field(name: str) -> str:
    """A field's name as an object has it; what is no field's name stays."""
    return _names().get(name, name)


def words(text: str) -> str:
    """A message with every field's name as an object has it."""
    return _pattern().sub(lambda found: _names()[found.group()], text)


@cache
def _names() -> dict[str, str]:
    found = {name for model in models(ExperimentSpec, Experiment) for name in model.model_fields} | {"api_version"}
    return {name: to_camel(name) for name in sorted(found) if "_" in name}


@cache
def _pattern() -> re.Pattern[str]:
    # Not within a metric's name or a path of JSON keys: usage.input_tokens, input_tokens_mean.
    return re.compile(rf"(?<![\w.$])(?:{'|'.join(_names())})(?![\w.]\w)")


def models(*roots: type[Frozen]) -> tuple[type[Frozen], ...]:
    """Every model that some models are made of, themselves included."""
    found: dict[type[Frozen], None] = {}
    waiting = list(roots)
    while waiting:
        model = waiting.pop()
        if model not in found:
            found[model] = None
            waiting += [inner for item in model.model_fields.values() for inner in _models_in(item.annotation)]
    return tuple(found)


def _models_in(annotation: Any) -> Iterator[type[Frozen]]:
    if isinstance(annotation, type) and issubclass(annotation, Frozen):
        yield annotation
    for part in get_args(annotation):
        yield from _models_in(part)
