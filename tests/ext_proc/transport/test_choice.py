import importlib
import logging
from types import ModuleType

import pytest

from ext_proc.transport import choice


def without(monkeypatch: pytest.MonkeyPatch, *packages: str) -> None:
    """As if packages were not installed, or built for another machine."""
    load = importlib.import_module

    def missing(name: str) -> ModuleType:
        if name in packages:
            raise ImportError(f"no module {name}")
        return load(name)

    monkeypatch.setattr(importlib, "import_module", missing)


def test_where_the_engine_is_missing_grpcio_serves_and_the_log_says_why(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert choice.available("nghttp2") == "nghttp2"
    assert not caplog.records
    without(monkeypatch, "ngh2")
    assert choice.available("nghttp2") == choice.available("grpcio") == "grpcio"
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert "ngh2, which cannot be imported (no module ngh2; pip install 'abmesh[fast]'" in record.message
    assert "serving with grpcio instead" in record.message


def test_only_our_own_transport_runs_on_uvloop_and_on_pythons_loop_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choice.loop_factory("grpcio") is None
    factory = choice.loop_factory("nghttp2")
    assert factory is not None
    loop = factory()
    assert type(loop).__module__.startswith("uvloop")
    loop.close()
    with monkeypatch.context() as patched:
        without(patched, "uvloop")
        assert choice.loop_factory("nghttp2") is None
    without(monkeypatch, "ngh2")
    assert choice.loop_factory("nghttp2") is None, "grpcio takes its place"
