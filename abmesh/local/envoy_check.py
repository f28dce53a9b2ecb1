"""What a real Envoy says to a configuration, without serving it. Called by ``abmesh validate --envoy``."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from abmesh.experiment.model import Document
from abmesh.local.processes import ProcessError
from abmesh.mesh.yaml_text import to_yaml
from abmesh.text import shorten

_LIMIT: Final = 120.0
"""Seconds for Envoy to read a configuration; a thousand experiments take it some ten."""

_SHORTEST: Final = 4
"""Fewest characters of a value that is looked for in a refusal; shorter ones are found in many words."""

_REFUSAL: Final = re.compile(r"error initializing configuration '[^']*': (.*)", re.DOTALL)
_CONSTRAINT: Final = re.compile(r"Proto constraint validation failed \((.*)\)", re.DOTALL)


def refusal(bootstrap: Mapping[str, Any], program: str) -> str:
    """Why Envoy refuses a bootstrap, in its own words on one line; empty if it accepts it.

    Args:
        bootstrap: from :func:`abmesh.mesh.bootstrap.render_bootstrap`.
        program: the Envoy to ask.

    Raises:
        ProcessError: the program cannot be run, does not answer in time, or is not an Envoy.
    """
    with tempfile.TemporaryDirectory(prefix="abmesh-") as folder:
        file = Path(folder) / "envoy.yaml"
        file.write_text(to_yaml(bootstrap), encoding="utf-8")
        command = [program, "--mode", "validate", "-c", str(file), "--use-dynamic-base-id", "--log-level", "critical"]
        try:
            done = subprocess.run(command, capture_output=True, timeout=_LIMIT, check=False)
        except OSError as error:
            raise ProcessError(
                f"cannot run Envoy: {program}: {error.strerror or error}; --envoy-path names another"
            ) from error
        except subprocess.TimeoutExpired as error:
            raise ProcessError(f"Envoy did not finish reading the configuration in {_LIMIT:.0f} s") from error
    said = (done.stderr + done.stdout).decode(errors="replace")
    if done.returncode == 0:
        if f"configuration '{file}' OK" not in said:
            raise ProcessError(f"{program} is not an Envoy: it did not say that the configuration is OK")
        return ""
    return essence(said) or f"it ended with exit code {done.returncode} and said nothing"


def with_placeholders(document: Document) -> Document:
    """The document with something in place of every secret salt: Envoy only has to read it, and nobody may."""
    return document.model_copy(
        update={
            "experiments": tuple(
                item
                if item.secret_salt is None
                else item.model_copy(update={"secret_salt": item.secret_salt.holding("placeholder")})
                for item in document.experiments
            )
        }
    )


def essence(said: str) -> str:
    """The reason alone: Envoy quotes the whole message that breaks one of its rules."""
    found = _REFUSAL.search(said)
    text = found[1] if found else said
    broken = _CONSTRAINT.search(text)
    return shorten(broken[1] if broken else text, 500)


def fields_named(reason: str, document: Document) -> Sequence[str]:
    """The document's fields whose values stand in a refusal, such as ``clusters.a.tls.ca_file``."""
    paths = []
    for path, value in _texts(document.model_dump(), ""):
        if len(value) >= _SHORTEST and re.search(rf"(?<![\w./-]){re.escape(value)}(?![\w./-])", reason):
            paths.append(path)
    return paths


def _texts(value: object, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield from _texts(item, f"{path}.{name}" if path else str(name))
    elif isinstance(value, list | tuple):
        for place, item in enumerate(value):
            yield from _texts(item, f"{path}[{place}]")
