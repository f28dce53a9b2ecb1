"""A cluster on this machine.

python -m tests.cluster build               build its programs, once
python -m tests.cluster test [ARGUMENT...]  build, then run the tests in tests/cluster; `make cluster` does
python -m tests.cluster up FOLDER           run one until Ctrl-C or SIGTERM, for trials
python -m tests.cluster inside FOLDER COMMAND...   run a command in the network of one that is up, such as
                                            `kubectl get pods -A` or python
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import types
from pathlib import Path

from tests.cluster.cluster import Cluster
from tests.cluster.errors import ClusterError, Unavailable
from tests.cluster.plane.network import as_root
from tests.cluster.programs.builder import build
from tests.cluster.programs.catalogue import programs
from tests.paths import ROOT

HANDLE = "cluster.json"
"""In the folder of a cluster that is up: how to reach it."""


def main(arguments: list[str]) -> int:
    """Run a command; its exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.cluster", description="A cluster on this machine.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("build")
    commands.add_parser("test")
    up = commands.add_parser("up")
    up.add_argument("--without-istio", action="store_true", help="start no istiod: some seconds faster")
    up.add_argument("folder", type=Path)
    inside = commands.add_parser("inside")
    inside.add_argument("folder", type=Path)
    inside.add_argument("argv", nargs=argparse.REMAINDER)
    options, others = parser.parse_known_args(arguments)
    if others and options.command != "test":
        parser.error(f"unknown arguments: {' '.join(others)}")
    try:
        match options.command:
            case "build":
                _say(f"built: {build(_say).folder}")
            case "test":
                build(_say)
                _test(others)
            case "up":
                build(_say)
                _up(options.folder, istio=not options.without_istio)
            case _:
                _inside(options.folder, options.argv)
    except Unavailable as error:
        _say(f"NOT TESTED: no cluster can run on this machine. {error}")
        return 0 if options.command == "test" else 1
    except ClusterError as error:
        _say(f"error: {error}")
        return 1
    return 0


def _test(arguments: list[str]) -> None:
    """Become pytest, with the rights that a network needs."""
    command = [sys.executable, "-m", "pytest", "-m", "cluster and not soak", "tests/cluster", *arguments]
    os.chdir(ROOT)
    os.execvp(*_program(as_root(command)))


def _up(folder: Path, istio: bool) -> None:
    if os.geteuid() != 0:
        os.execvp(*_program(as_root([sys.executable, "-m", "tests.cluster", *sys.argv[1:]])))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)
    with Cluster.started(programs(), folder, istio=istio) as cluster:
        handle = cluster.describe() | {"pid": os.getpid()}
        with tempfile.NamedTemporaryFile("w", dir=folder, delete=False) as file:
            json.dump(handle, file, indent=1)
        Path(file.name).rename(folder / HANDLE)
        _say(f"READY {json.dumps(handle)}")
        while True:
            signal.pause()


def _inside(folder: Path, argv: list[str]) -> None:
    handle = json.loads((folder / HANDLE).read_text())
    os.environ |= handle["environment"]
    os.environ["PATH"] = f"{handle['programs']}:{os.environ['PATH']}"
    user = [] if os.geteuid() == 0 else ["--user", "--preserve-credentials"]
    os.execvp(*_program(["nsenter", "--target", str(handle["network_pid"]), *user, "--net", *argv]))


def _program(command: list[str]) -> tuple[str, list[str]]:
    return command[0], command


def _end(_number: int, _frame: types.FrameType | None) -> None:
    raise SystemExit(0)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
