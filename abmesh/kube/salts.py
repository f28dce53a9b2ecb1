"""Secret salts: another one than the users were assigned with is refused, and never silently served. Pure.

The server and the controller each read the mounted files, and ask here. The status keeps a digest of the salt.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from abmesh.experiment.errors import SecretError
from abmesh.experiment.model import Experiment
from abmesh.kube.generation import salt_digest


def checked_digest(experiment: Experiment, status: Mapping[str, Any]) -> str:
    """The digest of an experiment's secret salt; empty if it has none.

    Args:
        experiment: with its secret salt, if it has one.
        status: the object's.

    Raises:
        SecretError: the status keeps that of another salt, so that every user would move.
    """
    if experiment.secret_salt is None:
        return ""
    found, expected = salt_digest(experiment), status.get("saltDigest")
    if expected is not None and found != expected:
        raise SecretError(
            f"{experiment.name}: saltFile: {experiment.secret_salt.label} holds another salt than the one that users "
            "were assigned with, so every user would be assigned anew; put the former salt back, or apply a new "
            "Experiment"
        )
    return found
