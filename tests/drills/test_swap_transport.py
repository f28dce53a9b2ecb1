"""The day of a CVE in libnghttp2: the server is switched to grpcio, and back, behind a real Envoy under load."""

from __future__ import annotations

import ctypes
import re
import subprocess
import sys
import tarfile
from collections.abc import Mapping, Sequence
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import pytest

from abmesh.local.stack import Stack
from ext_proc.transport.versions import LIBNGHTTP2
from tests.drills.report import Drill
from tests.e2e.load import under_load
from tests.e2e.support import Answer, abmesh, ask_all, document, eventually, predicted, stack
from tests.locks import pins
from tests.paths import ROOT

USERS: Final = [f"user-{number}" for number in range(300)]
VARIABLE: Final = "ABMESH_TRANSPORT"


@pytest.fixture(autouse=True)
def _has_ngh2() -> None:
    pytest.importorskip("ngh2")


def mapped(pid: int) -> set[str]:
    """Which of the two HTTP/2 libraries a process has in its memory."""
    maps = Path(f"/proc/{pid}/maps").read_text()
    return {name for name, path in (("ngh2", "/ngh2/_core"), ("grpcio", "/grpc/_cython/")) if path in maps}


@pytest.mark.envoy
@pytest.mark.parametrize("way", ["environment", pytest.param("flag", marks=pytest.mark.soak)])
async def test_the_server_is_switched_to_grpcio_and_back_and_no_request_fails(
    tmp_path: Path, drill: Drill, way: str
) -> None:
    async with stack(tmp_path, document({"model-a": 50.0, "model-b": 50.0})) as running:
        server = running.children["ext-proc"]
        usual = list(server.command)
        other = ["env", f"{VARIABLE}=grpcio", *usual] if way == "environment" else [*usual, "--transport", "grpcio"]
        expected = await predicted(running.config, USERS)
        async with under_load(running.url, USERS) as load:

            async def assigned_again() -> bool:
                return all(answer.variant for _, answer in load.answers[-20:])

            async def restart(command: list[str]) -> None:
                await load.more(50)
                assert await server.stop(seconds=20) == 0
                server.command = command
                await server.start()
                await load.more(50)
                await eventually(assigned_again)

            assert mapped(server.pid) == {"ngh2"}
            await restart(other)
            assert mapped(server.pid) == {"grpcio"}, "libnghttp2 must not even be loaded"
            all_assigned = await ask_all(running.url, USERS)
            assert {user: answer.variant for user, answer in all_assigned.items()} == expected
            await restart(usual)
            assert mapped(server.pid) == {"ngh2"}
            await load.more(50)
        told(drill, running, load.failures, [*load.answers, *all_assigned.items()], expected)


def told(
    drill: Drill,
    running: Stack,
    failures: Sequence[str],
    answers: Sequence[tuple[str, Answer]],
    expected: Mapping[str, str],
) -> None:
    variants = [(user, answer.variant) for user, answer in answers]
    drill.sent, drill.failed = len(answers), len(failures)
    drill.wrong = sum(variant not in (None, expected[user]) for user, variant in variants)
    lines = running.children["ext-proc"].log.read_text().splitlines()
    told_transports = [line for line in lines if " transport " in line]
    unassigned = sum(variant is None for _, variant in variants)
    drill.operator_reads(f"{unassigned} requests went to the control while the server restarted", *told_transports)
    assert (drill.failed, drill.wrong) == (0, 0), failures[:3]
    named = re.findall(r"transport (\w+): (.+)", "\n".join(told_transports))
    ngh2 = ("nghttp2", f"ngh2 {version('ngh2')} with libnghttp2 {LIBNGHTTP2[version('ngh2')]}")
    assert named == [ngh2, ("grpcio", f"grpcio {version('grpcio')}"), ngh2]


@pytest.mark.envoy
async def test_without_ngh2_the_server_falls_back_and_says_so(tmp_path: Path, drill: Drill) -> None:
    """As after `pip uninstall ngh2`: a package of that name that cannot be imported stands before it."""
    hidden = tmp_path / "hidden" / "ngh2"
    hidden.mkdir(parents=True)
    (hidden / "__init__.py").write_text("raise ImportError('No module named ngh2')\n")
    running = stack(tmp_path / "stack", document({"model-a": 50.0, "model-b": 50.0}))
    async with running:
        server = running.children["ext-proc"]
        await server.stop(seconds=20)
        server.command = ["env", f"PYTHONPATH={hidden.parent}:{ROOT}", *server.command]
        await server.start()

        async def assigned() -> bool:
            return all(answer.variant for answer in (await ask_all(running.url, USERS[:20])).values())

        await eventually(assigned)
        assert mapped(server.pid) == {"grpcio"}
        warned = [line for line in server.log.read_text().splitlines() if "serving with grpcio instead" in line]
        drill.sent = 20
        drill.operator_reads(*warned)
        assert len(warned) == 1


async def test_the_version_is_printed_and_known_for_the_version_in_the_lock() -> None:
    code, output, errors = await abmesh("--version")
    assert (code, errors) == (0, "")
    assert f"transport nghttp2: ngh2 {version('ngh2')} with libnghttp2 {LIBNGHTTP2[version('ngh2')]}\n" in output
    assert f"transport grpcio: grpcio {version('grpcio')}\n" in output
    (locked,) = [pin.version for pin in pins("requirements-image.lock") if pin.name == "ngh2"]
    page = (ROOT / "docs" / "operations" / "ngh2.md").read_text()
    assert f"| {locked} | {LIBNGHTTP2[locked]} |" in page


def test_the_library_cannot_be_asked_for_its_version() -> None:
    """If a later wheel exports it, ask it instead of keeping a table."""
    spec = find_spec("ngh2")
    assert spec is not None
    assert spec.origin is not None
    folder = Path(spec.origin).parent
    (binary,) = (folder / f"_core{suffix}" for suffix in EXTENSION_SUFFIXES if (folder / f"_core{suffix}").exists())
    library = ctypes.CDLL(str(binary))
    assert library.nghttp2_session_server_new3
    with pytest.raises(AttributeError):
        _ = library.nghttp2_version


@pytest.mark.soak
def test_the_sources_in_the_lock_hold_the_version_that_is_printed(tmp_path: Path) -> None:
    """Fetched as pip is set up here, and only if its hash is in the lock."""
    (locked,) = [pin for pin in pins("requirements.lock") if pin.name == "ngh2"]
    wanted = tmp_path / "wanted.txt"
    wanted.write_text(" ".join([str(locked.requirement), *(f"--hash=sha256:{digest}" for digest in locked.hashes)]))
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "ngh2"]
    subprocess.run([*command, "--require-hashes", "--dest", str(tmp_path), "-r", str(wanted)], check=True)
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as sources:
        (build,) = [name for name in sources.getnames() if name.endswith("/vendor/nghttp2/CMakeLists.txt")]
        file = sources.extractfile(build)
        assert file is not None
        found = re.search(rb"^project\(nghttp2 VERSION (\S+)", file.read(), re.MULTILINE)
    assert found is not None
    assert found[1].decode() == LIBNGHTTP2[locked.version]
