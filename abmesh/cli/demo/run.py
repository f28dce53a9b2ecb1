"""Runs one scenario of the demo: starts everything, sends users' requests, follows the rollout, reports how it ended.

Called by ``abmesh demo``.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from abmesh.analysis.render import as_json
from abmesh.cli.demo.report import make_report, report_text
from abmesh.cli.demo.scenarios import CANDIDATE, CONTROL, Outcome, Scenario
from abmesh.cli.demo.users import Population
from abmesh.cli.demo.view import DecisionLine, Picture, View, print_summary
from abmesh.cli.json_records import journal_json, status_json, weights_json
from abmesh.experiment.errors import StartError, StateError
from abmesh.local.stack import Stack, StackOptions
from controller.records import Cause, JournalEntry, Kind
from controller.rollout import status
from controller.settings import JOURNAL_FILE, Settings
from controller.state import journal

EXPERIMENT = "chat-model"
LONGEST_SECONDS = 110.0
_RECENT_SECONDS = 5.0
_BASELINE_SECONDS = 3.0
_ENDED = ("promoted", "rolled_back", "concluded", "manual")


async def run_demo(scenario: Scenario, console: Console, *, keep: bool, json_file: Path | None) -> Outcome:
    """Run a scenario until it ends, is interrupted, or takes longer than ``LONGEST_SECONDS``.

    With ``keep``, everything then keeps running until a signal, which does not change the outcome.

    Raises:
        StartError: the outcome's file cannot be written; checked before anything starts.
        ProcessError: a program could not be started.
        asyncio.CancelledError: a signal interrupted it; everything is stopped by then.
    """
    if json_file is not None:
        _check_writable(json_file)
    folder = Path(tempfile.mkdtemp(prefix="abmesh-demo-"))
    models = {CONTROL: scenario.control, CANDIDATE: scenario.candidate}
    options = StackOptions(models, controller_later=True, routes_file=scenario.is_native)
    stack = Stack(scenario.document, options, folder)
    passed = False
    try:
        with _signals_cancel(asyncio.current_task()):
            console.print("Starting Envoy, two models, the server and the controller ...")
            async with stack:
                _print_addresses(console, stack)
                outcome = await _watch(scenario, stack, console)
                print_summary(console, outcome)
                if json_file is not None:
                    _write(outcome, json_file)
                passed = outcome.passed
                if keep:
                    _print_invitation(console, stack)
                    await _interrupted()
        return outcome
    finally:
        if passed or keep:
            shutil.rmtree(folder, ignore_errors=True)
        else:
            console.print(f"The document, journal and logs are in {folder}", soft_wrap=True)


@contextlib.contextmanager
def _signals_cancel(task: asyncio.Task[Any] | None) -> Iterator[None]:
    """While the block runs, SIGINT, SIGTERM and SIGHUP cancel the task, so that everything is stopped in order."""
    assert task is not None
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for number in numbers:
        loop.add_signal_handler(number, task.cancel)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


@dataclass
class Decisions:
    """Reads the journal whenever it has grown.

    Attributes:
        path: of the journal.
        started: when the demo started.
    """

    path: Path
    started: datetime = field(default_factory=lambda: datetime.now(UTC))
    _size: int = 0
    _read: list[DecisionLine] = field(default_factory=list)

    def read(self) -> list[DecisionLine]:
        """Every decision that did more than hold, oldest first."""
        size = self.path.stat().st_size if self.path.exists() else 0
        if size != self._size:
            self._size = size
            entries = journal.salvage(self.path).entries
            self._read = [self._line(entry) for entry in entries if _changed(entry)]
        return self._read

    def _line(self, entry: JournalEntry) -> DecisionLine:
        seconds = (entry.at - self.started).total_seconds()
        return DecisionLine(entry.id, seconds, entry.kind, weights_json(entry.weights_after), entry.reason)


def _changed(entry: JournalEntry) -> bool:
    return entry.kind is not Kind.HOLD or entry.phase is not entry.phase_before


async def _watch(scenario: Scenario, stack: Stack, console: Console) -> Outcome:
    started = time.monotonic()
    population = Population(stack.url, rate=scenario.rate, streamed=scenario.streamed, feedback=scenario.feedback)
    settings = Settings(config=stack.config, state_dir=stack.state, envoys=(stack.admin,))
    decisions = Decisions(settings.journal_path)
    rolling_out = changed = False
    problem = ""
    users = asyncio.create_task(population.run())
    try:
        with View(console, scenario) as view:
            while True:
                now = time.monotonic()
                if not rolling_out and now - started >= _BASELINE_SECONDS:
                    rolling_out = True
                    await stack.start_controller()
                # Status first, then the journal, which by then has the decisions that led to that status.
                found = status_json(status.read_status(settings)[0])
                view.show_decisions(decisions.read())
                view.show(
                    Picture(
                        seconds=now - started,
                        stage=found["stage"],
                        weights=found["weights"],
                        seen=population.summary(now - _RECENT_SECONDS),
                        decision=found["last_decision"] or "",
                        reason=found["reason"] or "",
                        requests=population.requests,
                    )
                )
                change = scenario.change
                if change is not None and not changed and found["weights"][CANDIDATE] * 100 >= change.at_weight:
                    changed = True
                    await stack.behave(CANDIDATE, **change.behaviour)
                    what = ", ".join(f"{name} {value}" for name, value in change.behaviour.items())
                    view.print_line(f"{now - started:5.1f} s  {CANDIDATE} changes its behavior: {what}")
                if found["state"] in _ENDED:
                    break
                problem = _problem(stack, users, now - started) if rolling_out else ""
                if problem:
                    break
                await asyncio.sleep(0.2)
    finally:
        users.cancel()
        await asyncio.gather(users, return_exceptions=True)
    return _outcome(scenario, settings, population, time.monotonic() - started, problem)


def _problem(stack: Stack, users: asyncio.Task[None], seconds: float) -> str:
    """Why the run can no longer succeed; empty while it can."""
    for child in stack.children.values():
        if not child.running:
            return f"{child.name} exited:\n{child.tail()}"
    if users.done():
        return f"the users stopped sending requests: {users.exception()!r}"
    if seconds > LONGEST_SECONDS:
        return f"the rollout did not end within {LONGEST_SECONDS:.0f} s"
    return ""


def _outcome(scenario: Scenario, settings: Settings, population: Population, seconds: float, problem: str) -> Outcome:
    found = status_json(status.read_status(settings)[0])
    try:
        records = [journal_json(record) for record in journal.read(settings.journal_path)]
    except StateError as error:
        records, problem = [], problem or str(error)
    decisions = [
        record
        for record in records
        if record["weights_before"] != record["weights_after"] or record["decision"] in ("rollback", "complete")
    ]
    explained = scenario.because_of is None or any(
        scenario.because_of in record["reason"] for record in decisions if record["cause"] == Cause.HARMFUL
    )
    outcome = found["state"]
    if outcome != scenario.ending and not problem:
        problem = f"expected {scenario.ending}, found {outcome}: {found['reason']}"
    elif not explained and not problem:
        problem = f"expected harm to {scenario.because_of}, found: {found['reason']}"
    report, missing = make_report(scenario, EXPERIMENT, settings)
    problem = problem or missing
    return Outcome(
        scenario=scenario.name,
        expected=scenario.ending,
        outcome=outcome,
        passed=not problem,
        final_weights=found["weights"],
        requests=population.requests,
        errors=population.errors,
        seconds=round(seconds, 1),
        decisions=decisions,
        variants={
            name: {"requests": count, "errors": population.errors_by_variant[name]}
            for name, count in sorted(population.by_variant.items())
        },
        problem=problem,
        feedback={**population.events, "refused": population.events_refused} if scenario.feedback else {},
        report=None if report is None else as_json(report),
        told="" if report is None else report_text(report, scenario),
    )


async def _interrupted() -> None:
    """Wait for a signal, which is the normal end of a demo with ``--keep``."""
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        task = asyncio.current_task()
        assert task is not None  # a coroutine of a running loop
        task.uncancel()


def _check_writable(file: Path) -> None:
    try:
        present = os.path.lexists(file)
        with file.open("a"):
            pass
        if not present:
            file.unlink()
    except OSError as error:
        raise StartError(f"cannot write the outcome to {file}: {error.strerror}") from error


def _write(outcome: Outcome, file: Path) -> None:
    try:
        file.write_text(json.dumps(asdict(outcome), indent=2) + "\n")
    except OSError as error:
        raise StartError(f"cannot write the outcome to {file}: {error.strerror}") from error


def _print_addresses(console: Console, stack: Stack) -> None:
    addresses = {
        "traffic": f"{stack.url}/v1/chat/completions",
        "Envoy's statistics": f"{stack.admin}/stats?filter=^abmesh",
        "server metrics": stack.server_metrics,
        "controller": f"{stack.controller_url}/metrics",
        "document": str(stack.config),
    }
    for name, address in addresses.items():
        console.print(f"  {name:<19} {address}", soft_wrap=True, highlight=False)


def _print_invitation(console: Console, stack: Stack) -> None:
    body = '{"messages": [{"role": "user", "content": "Hello"}]}'
    state = f"--config {stack.config} --state {stack.state}"
    lines = (
        "Everything keeps running until Ctrl-C. Try:",
        f"  curl -i {stack.url}/v1/chat/completions -H 'x-user-id: ada' -d '{body}'",
        f"  abmesh status {state}",
        f"  abmesh explain {EXPERIMENT} {state}",
        f"  abmesh analyze {EXPERIMENT} {state}",
        f"  abmesh replay {stack.state / JOURNAL_FILE}",
        f"  abmesh weights {EXPERIMENT} {CANDIDATE}=25 --config {stack.config}",
    )
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False, markup=False)
