"""``python -m cli`` is the same as ``abmesh``."""

from cli.main import run

run()
