"""A journal of a gigabyte: commands answer from its end, in little memory, and nothing gets lost between its files."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from abmesh.experiment.journal_bound import JournalBound
from controller.state.journal import read
from tests.controller.support import NAME, World, serve_and_tick, world
from tests.drills.report import Drill

SHORT, LONG = 50_000_000, 1_000_000_000

# Measures a command from a small process: a child starts with the peak of the process that it was forked from.
MEASURE = """
import json, os, sys
pid = os.posix_spawn(sys.executable, [sys.executable, "-m", "abmesh.cli", *sys.argv[1:]], os.environ)
_, status, used = os.wait4(pid, 0)
took = [os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime, used.ru_maxrss / 1024]
print(json.dumps(took), file=sys.stderr)
"""

WRITE = """
import sys
from pathlib import Path
from abmesh.experiment.journal_bound import JournalBound
from controller.state.journal import Journal
from tests.controller.state.entries import entry

journal = Journal(Path(sys.argv[1]))
journal.keep_within(JournalBound.model_validate({"max_size": "100kB", "keep": 100}))
number = int(sys.argv[2])
while True:
    journal.append(entry(str(number), evidence={"x": "y" * 9000}), durable=number % 2 == 0)
    print(number, flush=True)
    number += 1
"""

# Dies at the n-th call with which a writer opens, renames or removes a file, for every n. The file is full, so that the
# entry makes room first. What the dead left is read as it is, then continued by the next writer.
DIE = """
import os, sys
from pathlib import Path
from abmesh.experiment.journal_bound import JournalBound
from controller.state.journal import Journal, read
from tests.controller.state.entries import entry

def journal(folder):
    made = Journal(folder)
    made.keep_within(JournalBound.model_validate({"max_size": "100kB", "keep": 2}))
    return made

def append(folder, number):
    journal(folder).append(entry(str(number), evidence={"x": "y" * 30000}), durable=True)

def numbers(folder):
    return [int(item.id) for item in read(folder / "journal.jsonl")]

at = 0
while True:
    at += 1
    folder = Path(sys.argv[1]) / str(at)
    for number in range(12):
        append(folder, number)
    assert numbers(folder) == list(range(3, 12)), "two full files were put aside, and one is full"
    child = os.fork()
    if child == 0:
        calls = 0
        def watch(event, arguments):
            global calls
            if event in ("open", "os.rename", "os.remove") and str(folder) in str(arguments[0]):
                calls += 1
                if calls == at:
                    os._exit(9)
        sys.addaudithook(watch)
        append(folder, 12)
        os._exit(0)
    died = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    left = numbers(folder)
    assert left[-1] in (11, 12) and left == list(range(left[0], left[-1] + 1)) and left[0] in (3, 6), (at, left)
    for number in range(left[-1] + 1, 18):
        append(folder, number)
    assert numbers(folder) == list(range(9, 18)), (at, numbers(folder))
    if not died:
        print(at - 1)
        break
"""


@dataclass(frozen=True)
class Ran:
    """What a command said, and what it took: its exit code, seconds of CPU time, and the most memory in MB."""

    out: str
    code: int
    cpu: float
    peak: float


def run(subject: World, *arguments: str) -> Ran:
    places = ["--config", str(subject.folder.parent / "experiments.yaml"), "--state", str(subject.folder)]
    if arguments[0] == "replay":
        places = []
    done = subprocess.run(
        [sys.executable, "-S", "-c", MEASURE, *arguments, *places], capture_output=True, text=True, check=True
    )
    code, cpu, peak = json.loads(done.stderr.splitlines()[-1])
    return Ran(done.stdout, code, cpu, peak)


def grow(subject: World, size: int, files: int = 1) -> int:
    """Repeat the last line, under other ids, before itself until the journal is so large; its lines then."""
    path = subject.folder / "journal.jsonl"
    *before, last = path.read_bytes().splitlines(keepends=True)
    own = json.loads(last)["id"].encode()
    copies = [last.replace(own, b"%032x" % number) for number in range(1000)]
    block = b"".join(copies)
    rounds = size // len(block) // files + 1
    for number in range(1, files + 1):
        aside = path if number == files else path.with_name(f"journal.{number:06}.jsonl")
        with aside.open("wb") as file:
            file.write(b"".join(before) if number == 1 else b"")
            for _ in range(rounds):
                file.write(block)
            file.write(last if number == files else b"")
    return len(before) + rounds * files * len(copies) + 1


EXPLAIN, JOURNAL, STATUS = (
    ("explain", NAME, "--json"),
    ("journal", NAME, "--limit", "1", "--json"),
    ("status", "--json"),
)


def compare(
    subject: World, drill: Drill, size: int, files: int = 1, commands: Sequence[Sequence[str]] = (EXPLAIN, JOURNAL)
) -> None:
    """Every command says the same as before the journal grew, in about as much time and memory."""
    before = [run(subject, *command) for command in commands]
    grow(subject, size, files)
    total = sum(path.stat().st_size for path in subject.folder.glob("*.jsonl"))
    assert total >= size
    for command, small in zip(commands, before, strict=True):
        large = run(subject, *command)
        shown = re.sub(r'"stage_seconds": [\d.]+', "", large.out), large.code
        assert shown == (re.sub(r'"stage_seconds": [\d.]+', "", small.out), 0), command
        drill.operator_reads(
            f"{total / 1e6:.0f} MB in {files} files: {command[0]}{' --id' if '--id' in command else ''}: "
            f"{large.cpu:.2f} s of CPU ({small.cpu:.2f} s with {len(before)} lines), {large.peak:.0f} MB"
        )
        assert large.peak < small.peak + 12, command
        assert large.cpu < small.cpu + 2 + 3 * total / 1e9, "a generous bound; it read and parsed every line before"
        if command[0] != "explain":  # which needs 95 MB before it has read anything, for numpy and scipy
            assert large.peak < 100, command


def rollout_in_its_second_stage(folder: Path) -> World:
    subject = world(folder)
    serve_and_tick(subject, 20)
    serve_and_tick(subject, 1, seconds=700)
    return subject


def finished_rollout(folder: Path) -> World:
    subject = world(folder)
    serve_and_tick(subject, 50)
    serve_and_tick(subject, 1, seconds=700)
    assert subject.phase().finished
    return subject


def test_holds_of_one_rollout(tmp_path: Path, drill: Drill) -> None:
    compare(rollout_in_its_second_stage(tmp_path), drill, SHORT)


def test_a_finished_rollout_whose_decision_is_far_back_in_another_file(tmp_path: Path, drill: Drill) -> None:
    compare(finished_rollout(tmp_path), drill, SHORT, files=3, commands=[EXPLAIN])


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("files", [1, 9])
@pytest.mark.parametrize("make", [rollout_in_its_second_stage, finished_rollout])
def test_a_gigabyte(tmp_path: Path, drill: Drill, make: type, files: int) -> None:
    subject = make(tmp_path)
    oldest = (*EXPLAIN, "--id", subject.journal()[0].id)
    compare(subject, drill, LONG, files, (EXPLAIN, oldest, JOURNAL, STATUS))


def test_all_of_it_is_printed_in_little_memory(tmp_path: Path, drill: Drill) -> None:
    subject = rollout_in_its_second_stage(tmp_path)
    lines = grow(subject, SHORT, files=2)
    ran = run(subject, "journal")
    drill.operator_reads(f"journal: {lines} lines in {ran.cpu:.1f} s of CPU, {ran.peak:.0f} MB")
    assert (ran.code, len(ran.out.splitlines())) == (0, lines)
    assert ran.peak < 100


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_all_of_it_is_recomputed_in_little_memory(tmp_path: Path, drill: Drill) -> None:
    subject = rollout_in_its_second_stage(tmp_path)
    small = run(subject, "replay", str(subject.folder / "journal.jsonl"))
    lines = grow(subject, SHORT // 5, files=2)
    ran = run(subject, "replay", str(subject.folder / "journal.jsonl"))
    drill.operator_reads(*ran.out.splitlines())
    assert (ran.code, ran.out) == (0, f"{lines} decisions are the same, 0 differ\n")
    assert ran.peak < small.peak + 20


def test_a_writer_that_is_killed_while_files_are_put_aside_loses_and_repeats_nothing(
    tmp_path: Path, drill: Drill
) -> None:
    """Kills at moments of chance; the next test has the steps one by one."""
    dice = random.Random(11)
    acknowledged = -1
    for _ in range(4):
        command = [sys.executable, "-c", WRITE, str(tmp_path), str(acknowledged + 1)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            for _ in range(dice.randrange(20, 60)):
                acknowledged = int(writer.stdout.readline())
            os.kill(writer.pid, signal.SIGKILL)
            for line in writer.stdout:  # what it had said before it died
                acknowledged = int(line)
        found = [int(entry.id) for entry in read(tmp_path / "journal.jsonl")]
        assert found[: acknowledged + 1] == list(range(acknowledged + 1))
        assert len(found) <= acknowledged + 2, "at most one was written and not yet acknowledged"
        acknowledged = found[-1]
    files = sorted(path.name for path in tmp_path.glob("*.jsonl"))
    drill.operator_reads(f"{acknowledged + 1} entries in {len(files)} files after 4 kills")
    assert len(files) > 4


def test_a_writer_that_dies_at_any_step_of_making_room_loses_and_repeats_nothing(tmp_path: Path, drill: Drill) -> None:
    done = subprocess.run([sys.executable, "-c", DIE, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    steps = int(done.stdout)
    drill.operator_reads(f"died at each of {steps} steps")
    assert steps >= 5, "the lock, the full file, its rename, the folder, the oldest file's removal, the new file"


def test_a_controller_keeps_the_bound_of_its_document(tmp_path: Path, drill: Drill) -> None:
    subject = rollout_in_its_second_stage(tmp_path)
    bound = JournalBound.model_validate({"max_size": "100kB", "keep": 2})
    config = tmp_path / "experiments.yaml"
    config.write_text(config.read_text().replace("version: 1\n", "version: 1\njournal: {max_size: 100kB, keep: 2}\n"))
    for _ in range(70):
        serve_and_tick(subject, 1, seconds=700)
    sizes = {path.name: path.stat().st_size for path in sorted(subject.folder.glob("*.jsonl"))}
    drill.operator_reads(f"{sizes}")
    assert len(sizes) == bound.keep + 1
    assert all(size <= bound.max_size for size in sizes.values())
    assert "journal.000001.jsonl" not in sizes
    explained = run(subject, "explain", NAME)
    assert explained.code == 0
    replayed = run(subject, "replay", str(subject.folder / "journal.jsonl"))
    drill.operator_reads(*replayed.out.splitlines()[-1:])
    assert replayed.code == 0, "the controller keeps the evidence of stages whose file was removed"
    assert " 0 differ" in replayed.out
    assert "skipped" not in replayed.out
