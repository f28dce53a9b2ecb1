"""Objects that the schema refuses, each with what the API server is to say, and those that only abmesh refuses."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from tests.abmesh.kube.specs import FULL


@dataclass(frozen=True)
class Bad:
    """The full spec with one thing wrong.

    Attributes:
        field: that the API server blames, below spec; a part of what it says.
        says: what it says, in part.
        changes: of the spec, by path: ``rollout.stage.maxDuration``, ``unit[0].header``; None removes the field.
    """

    field: str
    says: str
    changes: Mapping[str, Any]

    @property
    def spec(self) -> dict[str, Any]:
        spec = copy.deepcopy(dict(FULL))
        for path, value in self.changes.items():
            *above, last = path.replace("[", ".[").split(".")
            here: Any = spec
            for step in above:
                here = here[int(step[1:-1])] if step.startswith("[") else here.setdefault(step, {})
            key = int(last[1:-1]) if last.startswith("[") else last
            if value is None:
                del here[key]
            else:
                here[key] = value
        return spec


def _load(section: str) -> tuple[Bad, ...]:
    found = YAML(typ="safe").load(Path(__file__).with_suffix(".yaml"))
    return tuple(Bad(**each) for each in found[section])


BY_RULE = _load("rules")
BY_FORM = _load("forms")
BAD = (*BY_RULE, *BY_FORM)

ABMESH_ALONE = _load("abmesh_alone")
"""What no rule can say, or none that is cheap enough: `abmesh validate` and the condition Accepted do."""
