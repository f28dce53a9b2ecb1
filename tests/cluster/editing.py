"""A person's editor, for ``kubectl edit``."""

from __future__ import annotations

import sys
from pathlib import Path

_PROGRAM = """\
#!{python}
import pathlib, re, sys

weights = iter({weights})
path = pathlib.Path(sys.argv[1])
spec, status, rest = path.read_text().partition("\\nstatus:")
spec = re.sub("(?m)^( *)weight: .*$", lambda found: f"{{found[1]}}weight: {{next(weights)}}", spec)
path.write_text(spec + status + rest)
"""


def weights_editor(folder: Path, *weights: int) -> str:
    """A program for ``KUBE_EDITOR`` that writes these weights into an Experiment's spec.

    Args:
        folder: for the program.
        weights: of the variants in their order, in percent.
    """
    program = folder / "editor"
    program.write_text(_PROGRAM.format(python=sys.executable, weights=list(weights)))
    program.chmod(0o755)
    return str(program)
