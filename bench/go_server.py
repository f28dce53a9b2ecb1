"""The Go server that ours is compared with: builds ``bench/go``, and puts a document into its terms.

Called by :mod:`bench.contenders`. It is built from Debian's packages, without Go modules and so without a network:
``make go`` installs them.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

from abmesh.experiment.errors import AbmeshError
from abmesh.experiment.model import Document, Experiment
from ext_proc.core.identity import compile_cookie

SOURCE: Final = Path(__file__).with_name("go")
PACKAGES: Final = Path("/usr/share/gocode")
_NEEDED: Final = ("google.golang.org/grpc", "google.golang.org/protobuf", "github.com/cespare/xxhash")
_BUILD_SECONDS: Final = 300.0


class GoError(AbmeshError):
    """The Go server cannot be built, or cannot do what a document asks for."""


def missing() -> str:
    """Why the Go server cannot be built here; empty if it can."""
    if shutil.which("go") is None:
        return "Go is not installed; as root: make go"
    absent = [name for name in _NEEDED if not (PACKAGES / "src" / name).is_dir()]
    return f"Go packages are not installed: {', '.join(absent)}; as root: make go" if absent else ""


def build(folder: Path) -> Path:
    """Build the server; the program.

    Raises:
        GoError: it does not build.
    """
    program = folder / "go-server"
    environment = {**os.environ, "GO111MODULE": "off", "GOPATH": str(PACKAGES), "GOFLAGS": ""}
    environment.setdefault("GOCACHE", str(Path.home() / ".cache" / "go-build"))
    done = subprocess.run(
        ["go", "build", "-o", str(program), "."],
        cwd=SOURCE,
        env=environment,
        capture_output=True,
        text=True,
        timeout=_BUILD_SECONDS,
        check=False,
    )
    if done.returncode:
        raise GoError(f"the Go server does not build:\n{done.stderr.strip()}")
    return program


def versions() -> dict[str, str]:
    """Of Go and of the gRPC package that the server is built with; empty where they are not installed."""
    if missing():
        return {}
    words = subprocess.run(["go", "version"], capture_output=True, text=True, check=False).stdout.split()
    source = PACKAGES / "src" / "google.golang.org" / "grpc" / "version.go"
    found = re.search(r'Version = "([0-9.]+)"', source.read_text())
    return {"go": words[2].removeprefix("go") if len(words) > 2 else "", "grpc": found[1] if found else ""}


def config_of(document: Document) -> dict[str, Any]:
    """The document as the Go server reads it.

    Raises:
        GoError: an experiment uses what the Go server does not have.
    """
    return {"Experiments": [_experiment(experiment) for experiment in document.experiments]}


def _experiment(experiment: Experiment) -> dict[str, Any]:
    if experiment.match.host or experiment.match.headers or experiment.events:
        raise GoError(f"{experiment.name}: the Go server knows neither hosts nor headers to match, nor events")
    cookie = experiment.issue_cookie
    form = None if cookie is None else compile_cookie(cookie)
    if form is not None and form.secure is True:
        raise GoError(f"{experiment.name}: the Go server knows only cookies that are secure where the client is")
    segments = experiment.segments
    names = [variant.name for variant in experiment.variants]
    units = []
    for unit in experiment.unit:
        kind = "cookie" if unit.cookie else "query" if unit.query else "header"
        units.append({"Kind": kind, "Name": unit.cookie or unit.query or unit.header})
    return {
        "Name": experiment.name,
        "Salt": experiment.hash_salt,
        "PathPrefix": experiment.match.path_prefix,
        "Units": units,
        "Variants": [
            {
                "Name": variant.name,
                "TimeoutMs": 0 if variant.timeout is None else round(variant.timeout.total_seconds() * 1000),
                "Ranges": experiment.effective_ranges[variant.name],
            }
            for variant in experiment.variants
        ],
        "Overrides": [
            {"Header": override.header, "Variant": names.index(override.variant)} for override in experiment.overrides
        ],
        "SegmentHeader": "" if segments is None else segments.header,
        "Segments": [] if segments is None else list(segments.values),
        "Slices": experiment.slices,
        "Cookie": "" if form is None else form.name,
        "CookieAttributes": "" if form is None else form.attributes,
        "SecureAuto": form is not None and form.secure == "auto",
    }
