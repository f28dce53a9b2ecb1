"""The container's files stay true although no Docker engine runs here.

The commands of the Dockerfile and of compose.yaml are taken from the files and run as they stand; only folders and
ports are replaced, so that several runs can go side by side, and pip may use its cache and need not compile, which
takes longer than all else.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from packaging.utils import canonicalize_name
from ruamel.yaml import YAML

from abmesh.local.processes import Child, free_ports
from abmesh.local.stack import fetch
from tests.locks import pinned
from tests.paths import ROOT

pytestmark = pytest.mark.process

FOLDERS = ("/opt/abmesh", "/opt/build")
"""The environments that the image's commands make: the one of the image, and the one that builds it."""

PYTHON = Path(sys.executable).parent


def _instructions(name: str) -> list[str]:
    """The arguments of every instruction of this name, continuation lines joined."""
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    return [line.partition(" ")[2].strip() for line in text.splitlines() if line.startswith(f"{name} ")]


async def _run(command: str, folder: Path, path: Path = PYTHON) -> str:
    """Run a command of the image with ``path`` first on PATH, by default this Python, since many systems call theirs
    ``python3`` alone.
    """
    search = os.pathsep.join([str(path), os.environ["PATH"]])
    environment = {**os.environ, "PATH": search, "PIP_NO_COMPILE": "1"}
    environment.pop("PYTHONPATH", None)  # which would let the sources stand before the installed packages
    process = await asyncio.create_subprocess_shell(
        command, cwd=folder, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, f"{command}\n{output.decode()}"
    return output.decode()


def _copy_build_context(target: Path) -> None:
    """What the COPY instructions of the build stage copy; each must be let through by .dockerignore."""
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for instruction in _instructions("COPY"):
        if "--from" in instruction:
            continue
        *sources, destination = [word for word in instruction.split() if not word.startswith("--")]
        for source in sources:
            assert source in allowed, f".dockerignore keeps {source} out"
            if destination.startswith("/"):
                continue
            found, copied = ROOT / source, target / destination
            if found.is_dir():
                shutil.copytree(found, copied, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(found, copied if destination != "./" else target)


def _commands() -> dict[str, list[str]]:
    """The RUN instructions of every stage, by the stage's name."""
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    stages: dict[str, list[str]] = {}
    stage = ""
    for line in text.splitlines():
        word, _, rest = line.partition(" ")
        if word == "FROM":
            stage = rest.partition(" AS ")[2] or "last"
        elif word == "RUN":
            stages.setdefault(stage, []).append(rest.strip())
    return stages


def _run_stage(stage: str, folder: Path) -> None:
    for command in _commands()[stage]:
        for path in FOLDERS:
            command = command.replace(path, str(folder / path.rpartition("/")[2]))
        asyncio.run(_run(command.replace(" --no-cache-dir", ""), folder / "src"))


@dataclass(frozen=True)
class Built:
    """An environment as the Dockerfile builds it.

    Attributes:
        path: of the environment.
        programs: names in its ``bin``.
        packages: versions of what is installed.
    """

    path: Path
    programs: frozenset[str]
    packages: Mapping[str, str]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The environment of the image that a release makes."""
    folder = tmp_path_factory.mktemp("image")
    (folder / "src").mkdir()
    _copy_build_context(folder / "src")
    _run_stage("build", folder)
    path = folder / "abmesh"
    (site,) = (path / "lib").glob("python*/site-packages")
    packages: dict[str, str] = {
        canonicalize_name(found.name): found.version for found in distributions(path=[str(site)])
    }
    return Built(path, frozenset(program.name for program in (path / "bin").iterdir()), packages)


@pytest.fixture(scope="module")
def image(built: Built) -> Path:
    """The folder of that environment."""
    return built.path


@pytest.fixture(scope="module")
def demo_image(image: Path) -> Path:
    """The same folder, to which the stage of the image for trying out has added its Envoy."""
    _run_stage("build-demo", image.parent)
    return image


@pytest.mark.timeout(600)
def test_the_image_installs_exactly_what_its_lock_lists_and_neither_envoy_nor_pip(built: Built) -> None:
    assert "abmesh" in built.programs
    assert not built.programs & {"envoy", "pip", "pip3", "hatchling", "pytest"}
    assert {name: version for name, version in built.packages.items() if name != "abmesh"} == pinned(
        "requirements-image.lock"
    )


def test_the_base_is_an_argument_that_a_release_can_pin_and_the_python_that_the_bill_of_materials_is_for() -> None:
    bases = re.findall(r"^FROM (\S+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert set(bases) == {"${BASE}", "build", "runtime"}
    (base,) = {text for text in _instructions("ARG") if "=" in text}
    (makefile,) = re.findall(r"^BASE \?= (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    (python,) = re.findall(r"^IMAGE_PYTHON := (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert base == f"BASE={makefile}"
    assert makefile.startswith(f"python:{python}-")


@pytest.mark.timeout(600)
async def test_the_image_runs_as_a_user_that_its_commands_create_and_who_is_not_root(tmp_path: Path) -> None:
    user = _instructions("USER")[-1]
    creates = next(command for command in _instructions("RUN") if command.startswith("useradd"))
    uid = user.partition(":")[0]
    assert uid not in ("0", "root")
    assert f"--uid {uid}" in creates
    if os.geteuid() != 0:
        pytest.skip("useradd --prefix needs root")
    (tmp_path / "etc").mkdir()
    for name in ("passwd", "group", "shadow", "gshadow", "login.defs"):
        (tmp_path / "etc" / name).touch()
    await _run(creates.replace("useradd", f"useradd --prefix {tmp_path}", 1), tmp_path)
    assert f":{uid}:" in (tmp_path / "etc" / "passwd").read_text()


@pytest.mark.timeout(600)
async def test_the_image_runs_every_subcommand_outside_of_the_source_folder(image: Path, tmp_path: Path) -> None:
    entry = re.findall(r'"([^"]+)"', _instructions("ENTRYPOINT")[0])
    default = re.findall(r'"([^"]+)"', _instructions("CMD")[0])
    output = await _run(" ".join([*entry, *default]), tmp_path, image / "bin")
    commands = re.findall(r"│ ([a-z][a-z-]+) ", output)
    assert {"ext-proc", "controller", "demo", "render", "status"} <= set(commands), output
    await asyncio.gather(*(_run(f"{entry[0]} {command} --help", tmp_path, image / "bin") for command in commands))
    shutil.copy(ROOT / "experiments.yaml", tmp_path)
    await _run(f"{entry[0]} validate", tmp_path, image / "bin")


@pytest.mark.timeout(600)
async def test_the_installed_wheel_has_our_three_packages_and_they_import(image: Path, tmp_path: Path) -> None:
    code = "import abmesh, controller, ext_proc; print(abmesh.__file__)"
    output = await _run(f"python -c '{code}'", tmp_path, image / "bin")
    assert output.startswith(str(image))
    (record,) = (image / "lib").glob("python*/site-packages/abmesh-*.dist-info/RECORD")
    top = {line.partition("/")[0] for line in record.read_text().splitlines()}
    assert {name for name in top if not name.endswith(".dist-info") and name != ".."} == {
        "abmesh",
        "controller",
        "ext_proc",
    }


def _compose() -> dict[str, Any]:
    compose: dict[str, Any] = YAML(typ="safe", pure=True).load((ROOT / "compose.yaml").read_text())
    return compose


def _services() -> dict[str, list[str]]:
    """Every service's full command line."""
    compose = _compose()
    entry = re.findall(r'"([^"]+)"', _instructions("ENTRYPOINT")[0])
    return {
        name: [*(service.get("entrypoint") or entry), *service["command"]]
        for name, service in compose["services"].items()
    }


def _moved(text: str, replacements: Mapping[str, str]) -> str:
    for old, new in replacements.items():
        text = re.sub(rf"(?<![0-9a-z]){re.escape(old)}(?![0-9])", new, text)
    return text


STATE = "/var/lib/abmesh-state"


def test_only_the_controller_has_the_state_and_may_write_the_document() -> None:
    compose = _compose()
    mounts = {name: service.get("volumes", []) for name, service in compose["services"].items()}
    document = "abmesh:/var/lib/abmesh"
    assert mounts == {
        "envoy": [f"{document}:ro"],
        "ext-proc": [f"{document}:ro"],
        "controller": [document, f"state:{STATE}"],
        "model-a": [],
        "model-b": [],
    }
    assert set(compose["volumes"]) == {"abmesh", "state"}
    assert all(service["read_only"] for service in compose["services"].values())
    assert compose["services"]["controller"]["environment"] == {"ABMESH_STATE": STATE}
    assert _instructions("WORKDIR")[-1] == "/var/lib/abmesh", "where the document is looked for"


async def test_the_image_has_a_folder_for_state_that_only_its_user_may_read(tmp_path: Path) -> None:
    uid = _instructions("USER")[-1].partition(":")[0]
    makes = next(command for command in _instructions("RUN") if STATE in command)
    assert f"--owner={uid}" in makes
    folder = tmp_path / "state"
    made = re.sub(r"--(owner|group)=\d+", lambda found: f"--{found[1]}={os.geteuid()}", makes)
    await _run(made.replace(STATE, str(folder)), tmp_path)
    assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.envoy
@pytest.mark.timeout(600)
async def test_the_services_of_the_compose_file_serve_a_rollout_together(demo_image: Path, tmp_path: Path) -> None:
    names = ("10000", "9901", "50051", "9102", "9103", "8001", "8002")
    ports = dict(zip(names, map(str, free_ports(len(names))), strict=True))
    replacements = {
        **ports,
        "/tmp/envoy.yaml": str(tmp_path / "envoy.yaml"),
        "exec envoy": "exec envoy --use-dynamic-base-id",
    }
    # `abmesh render envoy` names the admin and server ports by default only; here they have to be given.
    render = f"render envoy --admin 127.0.0.1:{ports['9901']} --ext-proc 127.0.0.1:{ports['50051']}"
    document = _moved((ROOT / "experiments.yaml").read_text(), ports)
    services = _compose()["services"]
    state = tmp_path / "state"
    folders = {}
    for name in services:
        # Whoever may only read the document has a folder with nothing else, in which nothing may appear.
        folders[name] = tmp_path / name
        folders[name].mkdir()
        if services[name].get("volumes"):
            (folders[name] / "experiments.yaml").write_text(document)
    search = f"{demo_image / 'bin'}{os.pathsep}{os.environ['PATH']}"
    children = []
    for name, command in _services().items():
        words = [_moved(word, replacements).replace("render envoy", render) for word in command]
        # The kernel starts the child in the test's folder, as WORKDIR has it, through a shell.
        told = [
            f"{key}={value.replace(STATE, str(state))}" for key, value in services[name].get("environment", {}).items()
        ]
        start = ["sh", "-c", 'cd "$0" && export PATH="$1" && shift && exec env "$@"', str(folders[name]), search]
        start += [*told, *words]
        children.append(Child(name, start, tmp_path / f"{name}.log"))
    url = f"http://127.0.0.1:{ports['10000']}/v1/models"
    try:
        for child in children:
            await child.start()

        async def assigned() -> bool:
            try:
                async with aiohttp.ClientSession() as session, session.get(url, headers={"x-user-id": "ada"}) as answer:
                    return answer.status == 200 and answer.headers.get("x-model-version") in ("model-a", "model-b")
            except aiohttp.ClientError:
                return False

        envoy = next(child for child in children if child.name == "envoy")
        await envoy.wait_until(assigned, 60)
        controller = next(child for child in children if child.name == "controller")

        async def healthy() -> bool:
            return await fetch(f"http://127.0.0.1:{ports['9103']}/healthz") is not None

        await controller.wait_until(healthy)
        metrics = await fetch(f"http://127.0.0.1:{ports['9102']}/metrics")
        assert metrics is not None
        assert "abmesh_config_generation" in metrics
        found = {name: {path.name for path in folder.iterdir()} for name, folder in folders.items()}
        reads, nothing = {"experiments.yaml"}, set[str]()
        assert {name: found[name] for name in found if name != "controller"} == {
            "envoy": reads,
            "ext-proc": reads,
            "model-a": nothing,
            "model-b": nothing,
        }
        assert ".abmesh" not in found["controller"]
        assert "leader.lock" in {path.name for path in state.iterdir()}
    finally:
        await asyncio.gather(*(child.stop() for child in children))
