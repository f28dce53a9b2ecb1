"""A cluster on this machine.

python -m tests.cluster build               build its programs, once
python -m tests.cluster test [ARGUMENT...]  build, then run the tests in tests/cluster; `make cluster` does
python -m tests.cluster demo                build, then watch the chart roll out a model; `make demo-cluster` does
python -m tests.cluster up FOLDER           run one until Ctrl-C or SIGTERM, for trials
python -m tests.cluster inside FOLDER COMMAND...   run a command in the network of one that is up, such as
                                            `kubectl get pods -A` or python
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
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
    commands.add_parser("demo")
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
            case "demo":
                build(_say)
                return _demo()
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
    # Two clusters side by side: tests wait for most of their time.
    parallel = ["--numprocesses", "2", "--dist", "loadfile"]
    command = [sys.executable, "-m", "pytest", "-m", "cluster and not soak", "tests/cluster", *parallel, *arguments]
    os.chdir(ROOT)
    os.execvp(*_program(as_root(command)))


def _demo() -> int:
    """Run the demo in a cluster of its own, which ends with it; the exit code."""
    _become_root()
    from tests.cluster.demo import run_demo  # what it imports takes a second

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _interrupt)
    folder = Path(tempfile.mkdtemp(prefix="abmesh-cluster-demo-"))
    promoted = False
    try:
        _say("Starting etcd, kube-apiserver, kube-controller-manager and istiod ...")
        with Cluster.started(programs(), folder) as cluster, cluster.plane.network.entered():
            promoted = run_demo(cluster, _say)
            _say("Ending all of it ...")
    except (KeyboardInterrupt, asyncio.CancelledError):
        _say("interrupted; everything is ended")
        shutil.rmtree(folder, ignore_errors=True)
        return 130
    if promoted:
        shutil.rmtree(folder, ignore_errors=True)
        return 0
    _say(f"The new model was not promoted. Logs are in {folder}")
    return 1


def _interrupt(_number: int, _frame: types.FrameType | None) -> None:
    raise KeyboardInterrupt


def _become_root() -> None:
    """Become a process with the rights that a network needs."""
    if os.geteuid() != 0:
        os.execvp(*_program(as_root([sys.executable, "-m", "tests.cluster", *sys.argv[1:]])))


def _up(folder: Path, istio: bool) -> None:
    _become_root()
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
