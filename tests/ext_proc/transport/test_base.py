import asyncio
from types import ModuleType

import pytest

from ext_proc.transport import base


async def test_a_drain_waits_for_quiet_but_not_for_all_of_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    module: ModuleType = base
    monkeypatch.setattr(module, "_QUIET_SECONDS", 0.02)
    monkeypatch.setattr(module, "_CHECK_SECONDS", 0.001)
    seen = iter(range(1_000_000))
    begun = asyncio.get_running_loop().time()
    await base.until_quiet(0.1, lambda: next(seen))  # never quiet
    assert asyncio.get_running_loop().time() - begun >= 0.08
    await asyncio.wait_for(base.until_quiet(3600, lambda: 7), 30)
