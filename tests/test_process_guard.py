"""A test that starts a process must say so."""

from __future__ import annotations

import pytest

from tests.paths import ROOT

pytest_plugins = ["pytester"]
pytestmark = pytest.mark.process

STARTERS = {
    "subprocess": "subprocess.run(['true'])",
    "asyncio": "asyncio.run(asyncio.create_subprocess_exec('true'))",
    "thread": "asyncio.run(asyncio.to_thread(subprocess.run, ['true']))",
    "fork": "multiprocessing.get_context('fork').Process(target=print).start()",
    "spawn": "multiprocessing.get_context('spawn').Process(target=print).start()",
    "system": "os.system('true')",
}


def outcome(pytester: pytest.Pytester, test: str) -> dict[str, int]:
    pytester.syspathinsert(ROOT)
    pytester.makeconftest(
        "from tests.process_guard import ProcessGuard\n"
        "def pytest_configure(config):\n"
        "    config.addinivalue_line('markers', 'process: starts a process')\n"
        "    config.pluginmanager.register(ProcessGuard())\n"
    )
    pytester.makepyfile(f"import asyncio, multiprocessing, os, subprocess, pytest\n{test}")
    # A process of its own, since an audit hook stays for good.
    return pytester.runpytest_subprocess("-p", "no:cacheprovider").parseoutcomes()


@pytest.mark.parametrize("starter", STARTERS)
def test_an_unmarked_test_may_not_start_a_process(pytester: pytest.Pytester, starter: str) -> None:
    assert outcome(pytester, f"def test_it(): {STARTERS[starter]}") == {"failed": 1}


def test_nor_hide_it(pytester: pytest.Pytester) -> None:
    hidden = "def test_it():\n    try:\n        subprocess.run(['true'])\n    except BaseException:\n        pass\n"

    assert outcome(pytester, hidden) == {"failed": 1}


def test_nor_leave_it_to_a_fixture(pytester: pytest.Pytester) -> None:
    fixture = "@pytest.fixture(scope='module')\ndef it(): subprocess.run(['true'])\ndef test_it(it): pass\n"

    assert outcome(pytester, fixture) == {"errors": 1}


def test_a_marked_test_may(pytester: pytest.Pytester) -> None:
    assert outcome(pytester, "@pytest.mark.process\ndef test_it(): subprocess.run(['true'])\n") == {"passed": 1}
