"""The controller's HTTP server: its pages, its places, and addresses that it cannot listen on."""

from __future__ import annotations

import socket
from pathlib import Path
from unittest.mock import Mock

import aiohttp
import pytest

from abmesh.experiment.errors import SettingsError, StartError
from controller.http import HttpServer, most_connections
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


@pytest.mark.parametrize(("descriptors", "clients"), [(1_048_576, 64), (512, 64), (256, 32), (4, 1)])
def test_clients_get_a_part_of_the_descriptors(descriptors: int, clients: int) -> None:
    assert most_connections(descriptors) == clients


async def test_metrics_and_health_are_served_and_refusals_counted() -> None:
    values = {"report": None, "stalled": False, "role": "leading", "idle_seconds": 0.1, "error": "", "leader": None}
    controller = Mock(spec=Controller, **values)
    server = HttpServer("127.0.0.1:0", controller, Telemetry())
    address = await server.start()
    try:
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://{address}/healthz") as answer:
                assert (answer.status, (await answer.json())["status"]) == (200, "leading")
            async with session.get(f"http://{address}/metrics", data=b"a body") as answer:
                assert answer.status == 413
            async with session.get(f"http://{address}/metrics") as answer:
                assert 'abmesh_controller_http_refused_total{cause="body"} 1.0' in await answer.text()
    finally:
        await server.stop()
