"""The controller's HTTP server refuses an address that it cannot listen on."""

from __future__ import annotations

import socket
from pathlib import Path
from unittest.mock import Mock

import pytest

from abmesh.experiment.errors import SettingsError, StartError
from controller.http import HttpServer
from controller.loop import Controller
from controller.metrics.telemetry import Telemetry
from controller.settings import Settings


def _server(listen: str) -> HttpServer:
    Settings(Path("e"), http_listen=listen)
    return HttpServer(listen, Mock(spec=Controller), Telemetry())


async def test_an_address_in_use_is_a_start_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(StartError, match=f"cannot listen on {listen}: ") as caught:
            await _server(listen).start()
    assert "in use" in str(caught.value)


async def test_an_invalid_host_is_refused_in_one_line() -> None:
    with pytest.raises(SettingsError, match="is not an address to listen on"):
        await _server(f"{'x' * 64}.test:0").start()
