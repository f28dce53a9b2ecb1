"""grpc.aio ends at a call whose path is not UTF-8; our transport must restart it."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

import pytest

from tests.ext_proc.clients import USER
from tests.ext_proc.conformance.checks import ANSWER, served_well
from tests.ext_proc.conformance.frames import frame, plain
from tests.ext_proc.conformance.peer import Closed, Peer, peer
from tests.ext_proc.conformance.served import Served, serving

pytestmark = pytest.mark.process


def test_a_path_that_is_not_utf_8_does_not_end_the_server(tmp_path: Path) -> None:
    with serving(tmp_path, "grpcio") as server:
        ask_for_a_path_that_is_not_utf_8(server)
        served_well(server)
        with peer(server.unix) as other:
            assert other.call(1, USER).messages == [ANSWER]
        server.command("drain 1")
        server.until(lambda now: server.command("drained")["drained"], "the end of the drain")


def test_a_server_that_cannot_restart_at_once_does_when_it_can(tmp_path: Path) -> None:
    folder = tmp_path / "sockets"
    folder.mkdir()
    with serving(tmp_path / "server", "grpcio", socket=str(folder / "s.sock")) as server:
        shutil.rmtree(folder)
        ask_for_a_path_that_is_not_utf_8(server)
        server.until(lambda now: server.text.count("cannot restart grpc.aio") > 1, "attempts to restart")
        folder.mkdir()
        served_well(server)
        for _ in range(20):  # no server of a failed attempt accepts connections that it never answers
            with peer(server.tcp) as other:
                assert other.call(1, USER).messages == [ANSWER]
        with peer(server.unix) as other:
            assert other.call(1, USER).messages == [ANSWER]


def test_a_server_that_cannot_restart_can_be_stopped(tmp_path: Path) -> None:
    folder = tmp_path / "sockets"
    folder.mkdir()
    with serving(tmp_path / "server", "grpcio", socket=str(folder / "s.sock")) as server:
        shutil.rmtree(folder)
        ask_for_a_path_that_is_not_utf_8(server)
        server.until(lambda now: "cannot restart grpc.aio" in server.text, "attempts to restart")
        server.command("drain 1")
        server.until(lambda now: server.command("drained")["drained"], "the end of the drain")


def ask_for_a_path_that_is_not_utf_8(server: Served) -> None:
    with Peer(server.tcp) as found:
        found.open()
        found.send(frame(1, 5, 1, plain().replace(b"/Process", b"/Proce\xf0s")))
        with contextlib.suppress(Closed):
            found.result(1)
