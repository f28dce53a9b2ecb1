import asyncio
import os
import socket
import threading
import urllib.error

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from abmesh.experiment.errors import StartError
from ext_proc.exposition import Exposition, Processes, Rendered, generation_page, health_page, serve_metrics
from ext_proc.telemetry import Config, Counts
from tests.ext_proc.clients import scrape


def shown(counts: Counts, now: float = 100.0) -> list[str]:
    registry = CollectorRegistry()
    registry.register(Exposition(lambda: counts, lambda: now))
    return [line for line in generate_latest(registry).decode().splitlines() if not line.startswith("#")]


def test_requests_are_shown_by_experiment_variant_and_reason() -> None:
    counts = Counts({("chat", "model-a", "header"): 2, ("", "", "unmatched"): 1})
    lines = shown(counts)
    assert 'abmesh_ext_proc_requests_total{experiment="chat",reason="header",variant="model-a"} 2.0' in lines
    assert 'abmesh_ext_proc_requests_total{experiment="",reason="unmatched",variant=""} 1.0' in lines


def test_the_histogram_is_cumulative_and_in_seconds() -> None:
    counts = Counts()
    for nanoseconds in (9_000, 12_000, 60_000_000):
        counts.duration(nanoseconds)
    lines = shown(counts)
    assert 'abmesh_ext_proc_processing_seconds_bucket{le="1e-05"} 1.0' in lines
    assert 'abmesh_ext_proc_processing_seconds_bucket{le="1.5e-05"} 2.0' in lines
    assert 'abmesh_ext_proc_processing_seconds_bucket{le="0.05"} 2.0' in lines
    assert 'abmesh_ext_proc_processing_seconds_bucket{le="+Inf"} 3.0' in lines
    assert "abmesh_ext_proc_processing_seconds_count 3.0" in lines
    assert "abmesh_ext_proc_processing_seconds_sum 0.060021" in lines


def test_messages_and_errors_are_shown_by_kind() -> None:
    lines = shown(Counts(messages={"request_headers": 3}, errors={"internal": 1}))
    assert 'abmesh_ext_proc_messages_total{kind="request_headers"} 3.0' in lines
    assert 'abmesh_ext_proc_errors_total{kind="internal"} 1.0' in lines


def test_the_configuration_in_force_is_shown_exactly() -> None:
    generation = 2**52 - 1
    lines = shown(Counts(config=Config(generation, 90.0, 2)))
    generations = [line for line in lines if line.startswith("abmesh_config_generation ")]
    assert int(float(generations[0].split()[1])) == generation
    assert "abmesh_config_loaded_timestamp_seconds 90.0" in lines
    assert "abmesh_config_age_seconds 10.0" in lines
    assert "abmesh_config_rejected_total 2.0" in lines
    assert "abmesh_config_valid 1.0" in lines


def test_a_refused_edit_shows_and_without_any_document_there_is_no_generation() -> None:
    assert "abmesh_config_valid 0.0" in shown(Counts(config=Config(1, 0.0, 1, "refused")))
    lines = shown(Counts())
    assert "abmesh_config_valid 0.0" in lines
    assert not [line for line in lines if line.startswith(("abmesh_config_generation", "abmesh_config_age"))]


def test_refusals_are_shown_by_cause_from_the_start() -> None:
    counts = Counts()
    counts.refusal("message")
    lines = shown(counts)
    assert 'abmesh_ext_proc_refused_total{cause="message"} 1.0' in lines
    assert 'abmesh_ext_proc_refused_total{cause="server_budget"} 0.0' in lines


def test_processes_are_shown_each_under_its_label_and_one_that_has_ended_is_left_out() -> None:
    registry = CollectorRegistry()
    registry.register(Processes(lambda: {"0": os.getpid(), "1": 2**22 + 1}))
    lines = generate_latest(registry).decode().splitlines()
    found = [line.partition(" ")[0] for line in lines if line.startswith(("process_resident", "process_cpu"))]
    assert sorted(found) == ['process_cpu_seconds_total{worker="0"}', 'process_resident_memory_bytes{worker="0"}']


async def test_those_who_ask_meanwhile_share_the_next_text_which_is_newer_than_their_question() -> None:
    begun, go_on, made = threading.Event(), threading.Event(), 0

    def render() -> bytes:
        nonlocal made
        made += 1
        number = made
        begun.set()
        assert go_on.wait(10)
        return b"%d" % number

    rendered = Rendered(render)
    first = asyncio.create_task(rendered.text())
    await asyncio.to_thread(begun.wait, 10)
    others = [asyncio.create_task(rendered.text()) for _ in range(50)]
    await asyncio.sleep(0)
    go_on.set()
    assert await first == b"1"
    assert set(await asyncio.gather(*others)) == {b"2"}


async def test_a_text_that_cannot_be_made_is_an_error_and_the_next_is_tried() -> None:
    tried = 0

    def render() -> bytes:
        nonlocal tried
        tried += 1
        if tried == 1:
            raise ValueError("broken")
        return b"fine"

    rendered = Rendered(render)
    with pytest.raises(ValueError, match="broken"):
        await rendered.text()
    assert await rendered.text() == b"fine"


@pytest.mark.process
async def test_metrics_are_served_while_the_context_lasts() -> None:
    async with serve_metrics("127.0.0.1:0", [Exposition(Counts, lambda: 0.0)], Config) as url:
        assert url is not None
        assert (await asyncio.to_thread(scrape, url))["abmesh_config_valid"] == 0
    with pytest.raises(urllib.error.URLError):
        await asyncio.to_thread(scrape, url)


async def test_no_address_serves_nothing() -> None:
    async with serve_metrics(None, [], Config) as url:
        assert url is None


@pytest.mark.process
async def test_a_metrics_port_that_is_taken_is_refused() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(StartError, match=f"--metrics: cannot listen on {address}"):
            async with serve_metrics(address, [], Config):
                pass


def test_the_generation_page_names_what_is_in_force() -> None:
    assert generation_page(Config()) == {"generation": None, "experiments": {}}
    found = generation_page(Config(generation=0x3F, digests={"llm/chat": 0x4A}))
    assert found == {"generation": "000000000003f", "experiments": {"llm/chat": "000000000004a"}}


def test_trouble_and_refusals_are_said_in_health_and_serve_even_so() -> None:
    assert health_page(Config()) == {"serving": False, "trouble": "", "refused": ""}
    found = health_page(Config(generation=1, trouble="cannot list", error="bad weights"))
    assert found == {"serving": True, "trouble": "cannot list", "refused": "bad weights"}
    assert "abmesh_config_followed 0.0" in shown(Counts(config=Config(1, trouble="cannot list")))
    assert "abmesh_config_followed 1.0" in shown(Counts(config=Config(1)))
