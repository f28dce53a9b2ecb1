"""Which objects are served, and as what: each is judged alone, so that a bad one never touches another. Pure.

:mod:`abmesh.kube.store` judges every list of objects by the one before it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from abmesh.experiment.errors import AbmeshError
from abmesh.experiment.model import Experiment
from abmesh.kube.generation import experiment_digest
from abmesh.kube.in_force import experiment_in_force
from abmesh.kube.watching import Key, Objects
from abmesh.text import one_line

Complete = Callable[[Experiment, Mapping[str, Any]], Experiment]
"""Adds the secrets that an experiment names, given its object; raises an AbmeshError if that cannot be."""


@dataclass(frozen=True, slots=True)
class Judged:
    """What became of one object.

    Attributes:
        uid: the object's; another object of the same name has another.
        version: its resourceVersion.
        created: when it was created, as the object says it.
        parsed: what it stands for, without its secrets; None if it is refused.
        served: what to serve for it: this version, the last good one, or nothing.
        digest: of this version; None if it is not accepted.
        refusal: why it is not; empty if it is.
    """

    uid: str
    version: str
    created: str
    parsed: Experiment | None = None
    served: Experiment | None = None
    digest: int | None = None
    refusal: str = ""


@dataclass(frozen=True, slots=True)
class Served:
    """What became of all objects, by namespace and name."""

    objects: Mapping[Key, Judged] = field(default_factory=dict)

    @property
    def experiments(self) -> tuple[Experiment, ...]:
        """What to serve, in the order in which requests are matched.

        The longest path prefix comes first, then who matches most headers, then the oldest, then by name.
        """
        found = [(judged.served, judged.created) for judged in self.objects.values() if judged.served is not None]
        found.sort(key=lambda each: _rank(*each))
        return tuple(experiment for experiment, _ in found)

    @property
    def digests(self) -> dict[str, int]:
        """The digests of what is accepted, by name."""
        return {"/".join(key): each.digest for key, each in sorted(self.objects.items()) if each.digest is not None}

    @property
    def refused(self) -> dict[str, str]:
        """Why objects are refused, by name."""
        return {"/".join(key): each.refusal for key, each in sorted(self.objects.items()) if each.refusal}

    @property
    def has_secrets(self) -> bool:
        """Whether any of it depends on files that may change."""
        return any(each.parsed is not None and _names_secrets(each.parsed) for each in self.objects.values())


def judge(items: Objects, before: Served, complete: Complete) -> Served:
    """What becomes of the objects, given what became of them before.

    Args:
        items: all objects.
        before: the last result, empty at first.
        complete: called for each experiment that names secrets.
    """
    return Served({key: _judged(item, before.objects.get(key), complete) for key, item in items.items()})


def _judged(item: Mapping[str, Any], before: Judged | None, complete: Complete) -> Judged:
    metadata = item["metadata"]
    uid, version = str(metadata.get("uid", "")), str(metadata.get("resourceVersion", ""))
    if before is not None and before.uid != uid:
        before = None
    created = str(metadata.get("creationTimestamp", ""))
    unchanged = before is not None and before.version == version
    if before is not None and unchanged and (before.parsed is None or not _names_secrets(before.parsed)):
        return before
    parsed: Experiment | None = None
    try:
        parsed = before.parsed if before is not None and unchanged else experiment_in_force(item)
        assert parsed is not None  # refused and unchanged has been returned
        served = complete(parsed, item) if _names_secrets(parsed) else parsed
    except AbmeshError as error:
        kept = before.served if before is not None else None
        return Judged(uid, version, created, parsed, kept, refusal=one_line(error))
    digest = experiment_digest(uid, parsed.name, int(metadata.get("generation", 0)), parsed.effective_ranges)
    return Judged(uid, version, created, parsed, served, digest)


def _names_secrets(experiment: Experiment) -> bool:
    cookie = experiment.issue_cookie
    return experiment.secret_salt is not None or bool(cookie is not None and cookie.keys)


def _rank(experiment: Experiment, created: str) -> tuple[int, int, str, str]:
    match = experiment.match
    return (-len(match.path_prefix), -len(match.headers), created, experiment.name)
