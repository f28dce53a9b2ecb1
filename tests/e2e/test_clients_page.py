"""The examples in docs/clients.md run as they are printed, but for the address."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from abmesh.mesh.refusals import DISAGREEMENT, REFUSALS
from tests.e2e.pages import browsing, chromium, heard, site
from tests.e2e.support import document, predicted, stack
from tests.paths import ROOT

pytestmark = pytest.mark.envoy

PAGE = (ROOT / "docs" / "clients.md").read_text()
EVENTS = "    events: [click, {name: purchase, value: {max: 100}}]\n"
WEIGHTS = {"model-a": 50, "model-b": 50}


def example(language: str, url: str) -> str:
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert "https://chat.example" in found
    return str(found).replace("https://chat.example", url)


def _run(folder: Path, command: Sequence[str]) -> list[str]:
    folder.mkdir()
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=60, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout.split("\n")


async def run(folder: Path, *command: str) -> list[str]:
    """What a program prints; it ends well."""
    return await asyncio.to_thread(_run, folder, command)


async def test_the_programs(tmp_path: Path) -> None:
    assert shutil.which("curl")
    async with stack(tmp_path / "stack", document(WEIGHTS, EVENTS)) as running:
        variants = await predicted(running.config, ["alice", "bob"])
        python = example("python", running.url)
        streaming, chunks, purchase, alice, bob, refused, _ = await run(
            tmp_path / "python", sys.executable, "-c", python
        )
        assert re.fullmatch(r"streaming from model-[ab]", streaming)
        assert int(chunks.removesuffix(" chunks")) > 2
        assert (purchase, refused) == ("purchase: 204", "refused: wrong_value")
        assert (alice, bob) == (f"alice {variants['alice']} 204", f"bob {variants['bob']} 204")
        shell = example("sh", running.url)
        version, click, bought, cause, _ = await run(tmp_path / "curl", "bash", "-euo", "pipefail", "-c", shell)
        assert version.strip() == f"x-model-version: {variants['alice']}"
        assert (click, bought) == ("204", "204")
        assert '"error": "no_unit"' in cause


async def test_the_browser(tmp_path: Path) -> None:
    browser = chromium()
    html = """<!doctype html><script>%s
    (async () => {
      const {version} = await ask("alice", "Hello");
      const events = [await report("click", "alice"), await report("click?value=1", "alice")];
      events.push(await reportByCookie("click"));
      await fetch("/done", {method: "POST", body: JSON.stringify({version, events})});
    })();
    </script>"""
    pages: dict[str, str] = {}
    async with site(pages) as shop:
        clusters = "".join(f"  {name}: {{host: 127.0.0.1, port: {shop.port}}}\n" for name in WEIGHTS)
        text = document(WEIGHTS, EVENTS) + f"clusters:\n{clusters}event_origins: ['{shop.origin}']\n"
        async with stack(tmp_path / "stack", text, models=()) as running:
            pages["/page"] = html.replace("%s", example("js", running.url))
            variants = await predicted(running.config, ["alice"])
            async with browsing(browser, f"{shop.origin}/page", tmp_path):
                said: Mapping[str, object] = await heard(shop)
    assert said == {"version": variants["alice"], "events": [204, 400, 400]}


def test_every_cause_is_explained() -> None:
    explained = re.findall(r"^\| 400 `(\w+)` \|", PAGE, re.MULTILINE)
    assert explained == [*REFUSALS, DISAGREEMENT]
