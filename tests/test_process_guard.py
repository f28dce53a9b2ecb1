"""A test that starts a process must say so."""

from __future__ import annotations

import pytest

from tests.paths import ROOT

pytest_plugins = ["pytester"]
pytestmark = pytest.mark.process

CONFTEST = """
from tests.process_guard import ProcessGuard

def pytest_configure(config):
    config.addinivalue_line("markers", "process: starts a process")
    config.pluginmanager.register(ProcessGuard())
"""

STARTERS = {
    "subprocess": "subprocess.run(['true'])",
    "asyncio": "asyncio.run(asyncio.create_subprocess_exec('true'))",
    "thread": "asyncio.run(asyncio.to_thread(subprocess.run, ['true']))",
    "fork": "multiprocessing.get_context('fork').Process(target=print).start()",
    "spawn": "multiprocessing.get_context('spawn').Process(target=print).start()",
    "system": "os.system('true')",
}

TESTS = """
import asyncio, multiprocessing, os, subprocess, pytest

@pytest.mark.process
def test_marked():
    subprocess.run(["true"])

def test_hidden():
    try:
        subprocess.run(["true"])
    except BaseException:
        pass

@pytest.fixture(scope="module")
def starts():
    subprocess.run(["true"])

def test_fixture(starts):
    pass

def test_no_process():
    pass
""" + "\n".join(f"def test_{name}():\n    {code}\n" for name, code in STARTERS.items())


def test_only_a_marked_test_may_start_a_process_in_whatever_way(pytester: pytest.Pytester) -> None:
    pytester.syspathinsert(ROOT)
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(TESTS)
    # In a process of its own, since nothing removes an audit hook.
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", "-vv", "-rA")
    words = [line.split(maxsplit=2) for line in result.outlines if line.startswith(("PASSED ", "FAILED ", "ERROR "))]
    outcomes = {
        name.partition("::test_")[2]: (outcome, "is not marked" in "".join(why)) for outcome, name, *why in words
    }
    assert outcomes == {
        "marked": ("PASSED", False),
        "no_process": ("PASSED", False),
        "hidden": ("FAILED", True),
        "fixture": ("ERROR", True),
        **dict.fromkeys(STARTERS, ("FAILED", True)),
    }
