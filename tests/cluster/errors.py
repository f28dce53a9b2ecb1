"""What can keep a cluster from running on this machine."""

from __future__ import annotations

from abmesh.experiment.errors import AbmeshError


class ClusterError(AbmeshError):
    """A part of the cluster does not work; says which and quotes its log."""


class Unavailable(ClusterError):
    """This machine cannot run a cluster at all: the tests are skipped, and say why."""
