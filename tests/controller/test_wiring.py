"""What is known of Envoys' renderings depends on where statistics come from."""

from __future__ import annotations

from pathlib import Path

from controller.rollout.status import read_status
from controller.settings import Settings
from controller.wiring import renderings_of
from tests.controller.support import DOCUMENT


def test_with_a_prometheus_server_nothing_is_known_and_status_says_so(tmp_path: Path) -> None:
    config = tmp_path / "experiments.yaml"
    config.write_text(DOCUMENT)
    state = tmp_path / "state"
    state.mkdir()
    settings = Settings(config, state_dir=state, source="prometheus", url="http://127.0.0.1:9090")
    found, reader = renderings_of(settings)
    assert reader is None
    assert "--source prometheus" in found.reason
    (status,) = read_status(Settings(config, state_dir=state))
    assert status.unknown == ("those that http://127.0.0.1:9090 scrapes",)


def test_with_envoys_a_reader_asks_them(tmp_path: Path) -> None:
    found, reader = renderings_of(Settings(tmp_path / "e.yaml", envoys=("http://127.0.0.1:9901",)))
    assert reader is not None
    assert (found.reason, found.stale, found.unknown) == ("", {}, ())
