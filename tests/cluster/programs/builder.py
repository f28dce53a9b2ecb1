"""Builds the cluster's programs, once: each is made under another name and renamed, one builder at a time.

A build that was interrupted goes on where it ended, for what is there is whole.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.cluster.errors import ClusterError
from tests.cluster.programs.catalogue import PROGRAMS, TOOLS, Programs, build_flags, programs, read_pins
from tests.cluster.programs.go import environment, find_go

GIGABYTE: Final = 10**9
NEEDED: Final = 10 * GIGABYTE
"""Bytes of disk for the first build: 5.3 GB of build cache, 2.3 GB of modules, 0.6 GB of programs, and some room."""


def build(say: Callable[[str], None], cache: Path | None = None, needed: int = NEEDED) -> Programs:
    """Build what is missing, and say so as it goes.

    Args:
        say: tells the person who waits.
        cache: folder for programs of all versions; :func:`cache_folder` by default.
        needed: bytes that must be free on each disk.

    Raises:
        Unavailable: there is no Go, and none can be installed.
        ClusterError: the disk is too full, or a program cannot be built.
    """
    built = programs(cache)
    if not built.missing():
        return built
    built.folder.mkdir(parents=True, exist_ok=True)
    with _alone(built.folder / "lock", say):
        if missing := built.missing():
            _build(built, missing, say, needed)
    return built


def _build(built: Programs, missing: Sequence[str], say: Callable[[str], None], needed: int) -> None:
    pins = read_pins((TOOLS / "go.mod").read_text())
    go = find_go(pins.go, built.folder.parent, say)
    say(
        f"building {', '.join(missing)} into {built.folder}: the first time some 12 to 20 minutes on two CPUs "
        f"and {needed / GIGABYTE:.0f} GB of disk; later only what changed"
    )
    _check_space(go, built.folder, needed)
    for number, program in enumerate(PROGRAMS, start=1):
        if program.name in missing:
            started = time.monotonic()
            say(f"  {number} of {len(PROGRAMS)}: {program.name} ...")
            with _finished(built.folder / program.name) as file:
                _go(go, "build", *build_flags(pins), "-o", str(file), program.package)
            say(f"  {number} of {len(PROGRAMS)}: {program.name} took {time.monotonic() - started:.0f} s")
    _keep_crds(go, built)


def _check_space(go: str, folder: Path, needed: int) -> None:
    """Where Go keeps its caches and where the programs go, each must have the room, for they may share a disk."""
    for place in (_go(go, "env", "GOCACHE"), _go(go, "env", "GOMODCACHE"), str(folder)):
        existing = next(parent for parent in (Path(place), *Path(place).parents) if parent.exists())
        free = shutil.disk_usage(existing).free
        if free < needed:
            raise ClusterError(
                f"the disk of {place} has {free / GIGABYTE:.1f} GB free, and building needs "
                f"{needed / GIGABYTE:.0f} GB; make room, or set XDG_CACHE_HOME, GOCACHE and GOMODCACHE to another disk"
            )


def _keep_crds(go: str, built: Programs) -> None:
    """Copy the custom resources out of the modules, so that a run needs no Go."""
    folder = built.folder / "crds"
    folder.mkdir(exist_ok=True)
    istio = Path(_go(go, "list", "-m", "-f", "{{.Dir}}", "istio.io/istio"))
    with _finished(folder / "istio.yaml") as file:
        shutil.copyfile(istio / "manifests" / "charts" / "base" / "files" / "crd-all.gen.yaml", file)
    gateway_api = Path(_go(go, "list", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/gateway-api"))
    with _finished(folder / "gateway-api.yaml") as file:
        file.write_text(_run([built.path("kubectl"), "kustomize", str(gateway_api / "config" / "crd")]))


@contextmanager
def _finished(file: Path) -> Iterator[Path]:
    """Another name for a file, which gets its own name only when all went well."""
    other = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        yield other
        other.rename(file)
    finally:
        other.unlink(missing_ok=True)


@contextmanager
def _alone(lock: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Wait until no other builder works in the folder. The kernel frees the lock of one that was killed."""
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"another process builds into {lock.parent}: waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _go(go: str, *arguments: str) -> str:
    return _run([go, *arguments]).strip()


def _run(command: Sequence[str]) -> str:
    done = subprocess.run(command, cwd=TOOLS, env=environment(), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = "\n".join(done.stderr.strip().splitlines()[-15:])
        raise ClusterError(f"{' '.join(command[:2])} ... {command[-1]} failed with status {done.returncode}:\n{said}")
    return done.stdout
