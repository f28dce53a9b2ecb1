"""``python -m abmesh.cli`` is the same as ``abmesh``."""

from abmesh.cli.main import run

run()
