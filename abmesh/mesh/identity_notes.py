"""What an operator should know about an experiment whose identities are protected. Pure; for ``abmesh validate``."""

from __future__ import annotations

from collections.abc import Iterator

from abmesh.experiment.model import Experiment
from abmesh.mesh.native import is_native


def identity_notes(experiment: Experiment) -> Iterator[str]:
    """What the protections of an experiment do not cover; nothing for an experiment without any."""
    if experiment.secret_salt is not None:
        yield f"secret_salt: {experiment.secret_salt.label} is read by the server, not by this command"
        if is_native(experiment):
            yield "secret_salt: in the native lane Envoy's configuration holds the salt: keep it as secret"
    cookie = experiment.issue_cookie
    if cookie is not None and cookie.keys:
        others = ", ".join(unit.label for unit in experiment.unit if unit.cookie != cookie.name)
        if others:
            yield (
                f"issue_cookie.keys: they authenticate the cookie {cookie.name} alone; clients may still choose their "
                f"identity by {others}, unless something in front of Envoy sets or strips it"
            )
