"""What a real Envoy says to EnvoyFilters, before they are applied. Called by ``abmesh render istio``."""

from __future__ import annotations

from collections.abc import Sequence

from abmesh.experiment.errors import RenderError
from abmesh.local.envoy_check import refusal
from abmesh.mesh.istio.envoy_filters import EnvoyFilter
from abmesh.mesh.istio.trial import trials


def check_filters(filters: Sequence[EnvoyFilter], program: str) -> None:
    """Let Envoy read somebody's routes with these EnvoyFilters applied.

    Args:
        filters: all of an installation.
        program: the Envoy to ask.

    Raises:
        RenderError: Envoy refuses them, with its reason.
        ProcessError: the program cannot be run, or is not an Envoy.
    """
    if reason := reason_of(filters, program):
        raise RenderError(reason)


def reason_of(filters: Sequence[EnvoyFilter], program: str) -> str:
    """Why Envoy refuses somebody's routes with these EnvoyFilters applied; empty if it does not.

    Args:
        filters: all of an installation, or of some proxies.
        program: the Envoy to ask.

    Raises:
        RenderError: a value is not of its Envoy type.
        ProcessError: the program cannot be run, or is not an Envoy.
    """
    for scope, bootstrap in trials(filters):
        if reason := refusal(bootstrap, program):
            return f"Envoy refuses what is rendered for {scope}: {reason}"
    return ""
