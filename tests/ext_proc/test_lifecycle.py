import asyncio
import gc
import os
import signal

import pytest

from ext_proc.lifecycle import Signals, background, either, ready_line, spare_garbage_collection


async def fail() -> None:
    raise RuntimeError("failed")


async def test_the_first_signal_drains_and_the_second_stops_at_once() -> None:
    signals = Signals()
    with signals.installed():
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(signals.stop.wait(), 10)
        assert not signals.now.is_set()
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.wait_for(signals.now.wait(), 10)


async def test_background_work_ends_with_the_body() -> None:
    async with background(asyncio.sleep(3600)) as task:
        assert not task.done()
    assert task.cancelled()


async def test_an_error_in_background_work_is_raised() -> None:
    with pytest.raises(RuntimeError, match="failed"):
        async with background(fail()) as task:
            await asyncio.wait({task})


async def test_either_ends_with_the_first_and_cancels_the_rest() -> None:
    ended = asyncio.Event()

    async def long() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            ended.set()

    await either(long(), asyncio.sleep(0.01))
    assert ended.is_set()


async def test_either_raises_what_one_of_them_raised() -> None:
    with pytest.raises(RuntimeError, match="failed"):
        await either(asyncio.sleep(3600), fail())


def test_the_ready_line_names_addresses_metrics_and_generation() -> None:
    line = ready_line(("127.0.0.1:50051",), "http://127.0.0.1:9102/metrics", 0x3F)
    assert line == "serving on 127.0.0.1:50051, metrics on http://127.0.0.1:9102/metrics, generation 000000000003f"
    assert ready_line(("a", "b"), None, None) == "serving on a, b, generation none, so health is NOT_SERVING"


def test_everything_loaded_so_far_is_excluded_from_garbage_collection() -> None:
    before = gc.get_threshold()
    try:
        spare_garbage_collection()
        assert gc.get_freeze_count() > 10_000
        assert all(now > was for now, was in zip(gc.get_threshold(), before, strict=True))
    finally:
        gc.unfreeze()
        gc.set_threshold(*before)
