from __future__ import annotations

import asyncio
import errno
import json
import os
from datetime import timedelta
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from controller.http import HttpServer
from controller.loop import Controller, Role
from controller.metrics.telemetry import Telemetry
from controller.records import Phase
from controller.rollout.checker import Checker
from controller.rollout.guard import Guard
from controller.settings import Settings
from controller.sources.base import Observation
from controller.state.journal import Journal
from controller.state.lease import Lease
from tests.controller.support import DOCUMENT, START, World, serve, world


class Source:
    """The world's Envoys, or an error."""

    def __init__(self, subject: World) -> None:
        self.subject = subject
        self.fault: Exception | None = None
        self.asked = 0
        self.hang = False
        self.was_asked = asyncio.Event()

    async def observe(self) -> list[Observation]:
        self.asked += 1
        self.was_asked.set()
        if self.hang:
            await asyncio.Event().wait()
        if self.fault is not None:
            raise self.fault
        return self.subject.observe()

    async def close(self) -> None:
        """Nothing to close."""


class Setup:
    """A controller whose Envoys and clocks are those of a simulated world."""

    def __init__(self, subject: World, routes_file: Path | None = None, checker: Checker | None = None) -> None:
        self.subject = subject
        self.source = Source(subject)
        self.telemetry = Telemetry()
        self.lease = Lease(subject.folder)
        self.seconds = 1000.0
        self.told: list[str] = []
        guard = Guard(journal=Journal(subject.folder), documents=subject.documents, settle=subject.settle)
        self.controller = Controller(
            Settings(Path("e.yaml"), routes_file=routes_file),
            source=self.source,
            reconciler=subject.reconciler,
            lease=self.lease,
            telemetry=self.telemetry,
            checker=checker,
            guard=(guard, subject.states),
            notify=self.told.append,
            clock=lambda: subject.now,
            monotonic=lambda: self.seconds,
        )

    def metric(self, name: str) -> float | None:
        for line in self.telemetry.render().decode().splitlines():
            if line.startswith(f"{name} "):
                return float(line.rpartition(" ")[2])
        return None


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    return Setup(world(tmp_path))


async def test_a_tick_observes_decides_and_applies(setup: Setup) -> None:
    await setup.controller.tick()
    assert setup.controller.role is Role.LEADING
    assert setup.subject.weight() == 1000
    assert setup.metric('abmesh_controller_weight{experiment="chat",variant="model-b"}') == 0.1
    assert setup.metric('abmesh_controller_decisions_total{decision="advance",experiment="chat"}') == 1
    assert setup.metric("abmesh_controller_ticks_total") == 1
    assert setup.metric("abmesh_controller_tick_seconds_count") == 1
    assert setup.metric("abmesh_controller_leader") == 1
    assert setup.metric('abmesh_controller_sources{state="answering"}') == 1
    assert setup.metric("abmesh_controller_last_tick_timestamp_seconds") == setup.subject.now.timestamp()
    setup.lease.release()


async def test_native_experiments_without_a_routes_file_cause_one_warning_each(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    native = DOCUMENT.replace("    unit:", "    lane: native\n    unit:")
    setup = Setup(world(tmp_path, native))

    def warned() -> list[str]:
        return [record.message for record in caplog.records if "without --routes-file" in record.message]

    for _ in range(2):
        await setup.controller.tick()
    assert len(warned()) == 1
    assert "new weights of chat do not reach Envoy" in warned()[0]
    another = native.replace("version: 1\nexperiments:\n", "").replace("name: chat", "name: shop")
    (tmp_path / "experiments.yaml").write_text(native + another)
    for _ in range(2):
        await setup.controller.tick()
    assert len(warned()) == 2
    assert "new weights of shop do not" in warned()[1]
    setup.lease.release()


async def test_no_warning_with_a_routes_file_or_without_native_experiments(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    native = DOCUMENT.replace("    unit:", "    lane: native\n    unit:")
    for name, text, routes in (("kept", native, Path("/run/routes.json")), ("server", DOCUMENT, None)):
        (tmp_path / name).mkdir()
        setup = Setup(world(tmp_path / name, text), routes)
        await setup.controller.tick()
        assert setup.controller.role is Role.LEADING
        setup.lease.release()
    assert "without --routes-file" not in caplog.text


async def test_the_generation_is_shown_exactly(setup: Setup) -> None:
    for _ in range(2):
        await setup.controller.tick()
    assert setup.metric("abmesh_config_generation") == setup.subject.documents.read().generation
    setup.lease.release()


async def test_guardrails_values_are_shown_and_vanish_with_their_experiment(setup: Setup, tmp_path: Path) -> None:
    await setup.controller.tick()
    for seconds in (6, 5):
        setup.subject.now = setup.subject.now.replace(second=setup.subject.now.second + seconds)
        setup.subject.traffic.serve("model-b", 8)
        setup.subject.traffic.serve("model-b", 2, code=500)
        await setup.controller.tick()
    name = 'abmesh_controller_guardrail{dry_run="false",experiment="chat",limit="max",metric="error_rate"}'
    assert setup.metric(name) == 0.2
    harm = name.replace("guardrail{", "guardrail_p_harm{")
    p = setup.metric(harm)
    assert p is not None
    assert 0 < p <= 1
    typical, apart = (name.replace("guardrail{", f"guardrail_{end}{{") for end in ("typical_user", "disagreement"))
    value = setup.metric(typical)
    assert value is not None
    assert 0 <= value <= 1
    assert setup.metric(apart) in (0, 1)
    alarm = 'abmesh_controller_sample_ratio_alarm{experiment="chat"}'
    assert setup.metric(alarm) == 0
    (tmp_path / "experiments.yaml").write_text("version: 1\nexperiments: []\n")
    await setup.controller.tick()
    assert setup.metric(name) is None
    assert setup.metric(harm) is None
    assert setup.metric(typical) is None
    assert setup.metric(alarm) is None
    assert setup.metric('abmesh_controller_weight{experiment="chat",variant="model-b"}') is None
    setup.lease.release()


async def test_checks_are_asked_beside_the_ticks_and_shown(tmp_path: Path) -> None:
    said = {"status": 200}

    async def handler(_: web.Request) -> web.Response:
        return web.Response(status=said["status"])

    app = web.Application()
    app.router.add_post("/", handler)
    async with TestServer(app) as gate:
        check = f"{{name: gate, webhook: '{gate.make_url('/')}', interval: 1s, failures: 1}}"
        text = DOCUMENT.replace("      guardrails:", f"      checks: [{check}]\n      guardrails:")
        checker = Checker(None)
        setup = Setup(world(tmp_path, text), checker=checker)
        passed = 'abmesh_controller_check_passed{check="gate",experiment="chat"}'

        async def until(value: float) -> None:
            async with asyncio.timeout(60):
                while setup.metric(passed) != value:
                    setup.subject.now += timedelta(milliseconds=100)
                    await setup.controller.tick()
                    await asyncio.sleep(0.05)

        await setup.controller.tick()
        assert setup.metric(passed) is None  # the candidate has no users yet
        await until(1)
        said["status"] = 500
        await until(0)
        assert setup.metric('abmesh_controller_check_timestamp_seconds{check="gate",experiment="chat"}')
        assert "gate" in checker.results()["chat"]
        await checker.close()
    setup.lease.release()


async def test_a_sample_ratio_alarm_stays_while_the_document_is_refused(setup: Setup, tmp_path: Path) -> None:
    alarm = 'abmesh_controller_sample_ratio_alarm{experiment="chat"}'
    await setup.controller.tick()
    assert setup.metric(alarm) == 0
    setup.subject.now += timedelta(seconds=6)
    await setup.controller.tick()
    setup.subject.now += timedelta(seconds=5)
    setup.subject.traffic.serve("model-a", 500)
    setup.subject.traffic.serve("model-b", 500)
    await setup.controller.tick()
    assert setup.metric(alarm) == 1
    (tmp_path / "experiments.yaml").write_text("nonsense")
    await setup.controller.tick()
    assert setup.metric(alarm) == 1
    setup.lease.release()


async def test_absent_envoys_are_counted(setup: Setup) -> None:
    setup.subject.absent = set(setup.subject.envoys)
    await setup.controller.tick()
    await setup.controller.tick()
    assert setup.metric("abmesh_controller_source_errors_total") == 2
    assert setup.metric('abmesh_controller_sources{state="absent"}') == 1
    setup.lease.release()


async def test_each_refused_document_is_counted_once(setup: Setup, tmp_path: Path) -> None:
    await setup.controller.tick()
    path = tmp_path / "experiments.yaml"
    for text, count in (("nonsense", 1), ("nonsense", 1), ("version: 3", 2), (DOCUMENT, 2), ("nonsense", 3)):
        path.write_text(text)
        await setup.controller.tick()
        assert setup.metric("abmesh_config_rejected_total") == count
    setup.lease.release()


@pytest.mark.parametrize("fault", [RuntimeError("a bug"), OSError("no more files")])
async def test_no_error_ends_the_loop(setup: Setup, fault: Exception) -> None:
    setup.source.fault = fault
    await setup.controller.tick()
    await setup.controller.tick()
    assert str(fault) in setup.controller.error
    assert setup.metric('abmesh_controller_failures_total{experiment=""}') == 2
    setup.source.fault = None
    await setup.controller.tick()
    assert setup.controller.error == ""
    assert setup.subject.weight() == 1000
    setup.lease.release()


async def test_damaged_state_stops_every_move_and_is_shown(setup: Setup) -> None:
    await setup.controller.tick()
    folder = setup.subject.folder / "rollouts"
    good = {path: path.read_text() for path in folder.iterdir()}
    for path in good:
        path.write_text("{")
    await setup.controller.tick()
    assert setup.controller.report is not None
    assert "damaged" in setup.controller.report.failures["chat"]
    for path, text in good.items():
        path.write_text(text)
    await setup.controller.tick()
    assert setup.controller.report.failures == {}
    setup.lease.release()


async def test_a_second_controller_stands_by_and_takes_over(tmp_path: Path) -> None:
    subject = world(tmp_path)
    first, second = Setup(subject), Setup(subject)
    await first.controller.tick()
    await second.controller.tick()
    assert (first.controller.role, second.controller.role) == (Role.LEADING, Role.STANDBY)
    assert second.source.asked == 0
    assert second.metric("abmesh_controller_leader") == 0
    first.lease.release()
    await second.controller.tick()
    assert second.controller.role is Role.LEADING
    assert subject.moves() == [("advance", 0, 1000)]
    second.lease.release()


async def _hung(tmp_path: Path) -> tuple[Setup, Setup]:
    """A leader that does not tick any more, and a controller on standby that knows it; the candidate has 10%."""
    subject = world(tmp_path)
    first, second = Setup(subject), Setup(subject)
    await first.controller.tick()
    await second.controller.tick()
    assert not second.controller.leader_stalled
    subject.now += timedelta(seconds=31)
    second.seconds += 31
    await second.controller.tick()
    return first, second


async def _standby_ticks(second: Setup, ticks: int, code: int) -> None:
    subject = second.subject
    for _ in range(ticks):
        subject.now += timedelta(seconds=5)
        second.seconds += 5
        serve(subject, 50, code=code)
        await second.controller.tick()


async def test_a_controller_on_standby_rolls_back_for_harm_while_the_leader_hangs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = await _hung(tmp_path)
    subject = first.subject
    assert caplog.text.count("has not finished a tick for 31 s") == 1
    await _standby_ticks(second, 6, 200)
    assert subject.weight() == 1000
    await _standby_ticks(second, 6, 503)
    assert subject.weight() == 0
    assert subject.moves() == [("advance", 0, 1000), ("rollback", 1000, 0)]
    assert second.controller.role is Role.STANDBY
    assert second.metric("abmesh_controller_leader_last_tick_timestamp_seconds") == START.timestamp()
    await first.controller.tick()  # it wakes up, and finds weights that it did not write
    assert (subject.weight(), subject.phase()) == (0, Phase.MANUAL)
    await second.controller.tick()
    assert not second.controller.leader_stalled
    assert "goes on" in caplog.text
    first.lease.release()


async def test_a_leader_that_hangs_is_seen_although_the_clock_was_set_back(tmp_path: Path) -> None:
    subject = world(tmp_path)
    first, second = Setup(subject), Setup(subject)
    await first.controller.tick()
    await second.controller.tick()
    subject.now -= timedelta(days=1)
    await _standby_ticks(second, 8, 200)
    assert second.controller.leader_stalled
    assert second.controller.leader_seconds == 40
    await _standby_ticks(second, 8, 503)
    assert subject.weight() == 0
    first.lease.release()


async def test_harm_is_rolled_back_although_the_lease_cannot_be_had(tmp_path: Path) -> None:
    text = DOCUMENT.replace("weight: 100", "weight: 80").replace("weight: 0", "weight: 20")
    setup = Setup(world(tmp_path, text))
    (setup.subject.folder / "leader.lock").mkdir(parents=True)
    await _standby_ticks(setup, 10, 503)
    assert "cannot be opened" in setup.controller.error
    assert setup.subject.weight() == 0


@pytest.mark.parametrize("number", [errno.EROFS, errno.EMFILE])
async def test_an_error_of_the_system_is_not_called_a_bug(
    setup: Setup, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    setup.source.fault = OSError(number, os.strerror(number), "/somewhere")
    await setup.controller.tick()
    assert "/somewhere: " in setup.controller.error
    assert "bug" not in caplog.text
    setup.lease.release()


async def test_a_manual_rollout_stays_a_persons_while_the_leader_hangs(tmp_path: Path) -> None:
    first, second = await _hung(tmp_path)
    subject = first.subject
    path = tmp_path / "experiments.yaml"
    path.write_text(path.read_text().replace("weight: 90", "weight: 65").replace("weight: 10", "weight: 35"))
    await first.controller.tick()
    assert subject.phase() is Phase.MANUAL
    subject.now += timedelta(seconds=31)
    await _standby_ticks(second, 10, 503)
    assert subject.weight() == 3500
    first.lease.release()


async def test_only_ticks_that_end_are_told_to_the_service_manager(setup: Setup) -> None:
    setup.source.fault = RuntimeError("a bug")
    await setup.controller.tick()
    assert setup.told == ["WATCHDOG=1"]
    setup.source.hang = True
    setup.source.fault = None
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(setup.controller.tick(), 0.05)
    assert setup.told == ["WATCHDOG=1"]
    setup.lease.release()


async def test_the_leaders_heartbeat_tells_its_failures(setup: Setup) -> None:
    await setup.controller.tick()
    setup.subject.damage_states()
    await setup.controller.tick()
    heartbeat = setup.lease.leader().heartbeat
    assert heartbeat is not None
    assert "damaged" in heartbeat.failures["chat"]
    setup.source.fault = OSError("no more files")
    await setup.controller.tick()
    heartbeat = setup.lease.leader().heartbeat
    assert heartbeat is not None
    assert (heartbeat.failures, "no more files" in heartbeat.error, heartbeat.every) == ({}, True, 10)
    setup.lease.release()


async def test_it_ticks_until_stopped_and_finishes_the_tick(tmp_path: Path) -> None:
    setup = Setup(world(tmp_path))
    controller = Controller(
        Settings(Path("e.yaml")),
        source=setup.source,
        reconciler=setup.subject.reconciler,
        lease=setup.lease,
        telemetry=setup.telemetry,
    )
    stop = asyncio.Event()
    running = asyncio.create_task(controller.run(stop))
    async with asyncio.timeout(30):
        await setup.source.was_asked.wait()
        stop.set()
        await running
    assert setup.subject.weight() == 1000
    assert setup.source.asked == 1
    setup.lease.release()


async def _get(address: str, path: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(f"http://{address}{path}") as response:
        return response.status, await response.text()


async def test_health_and_metrics_over_http(setup: Setup) -> None:
    server = HttpServer("127.0.0.1:0", setup.controller, setup.telemetry)
    address = await server.start()
    try:
        assert await _health(address) == (200, "starting")
        await setup.controller.tick()
        assert await _health(address) == (200, "leading")
        setup.seconds += 29
        assert await _health(address) == (200, "leading")
        setup.seconds += 2
        assert await _health(address) == (503, "stalled")
        status, text = await _get(address, "/metrics")
        assert status == 200
        assert "abmesh_controller_ticks_total 1.0" in text
    finally:
        await server.stop()
        setup.lease.release()


async def test_health_on_standby_tells_the_age_of_the_leaders_heartbeat(tmp_path: Path) -> None:
    first, second = await _hung(tmp_path)
    server = HttpServer("127.0.0.1:0", second.controller, second.telemetry)
    address = await server.start()
    try:
        status, text = await _get(address, "/healthz")
        found = json.loads(text)
        assert (status, found["status"], found["leader_stalled"]) == (200, "standby", True)
        assert found["leader_last_tick_seconds_ago"] == 31
        assert found["leader"].startswith(f"{os.getpid()} on ")
    finally:
        await server.stop()
        first.lease.release()


async def _health(address: str) -> tuple[int, str]:
    status, text = await _get(address, "/healthz")
    return status, str(json.loads(text)["status"])
