from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from abmesh.experiment.errors import SettingsError
from controller.settings import Settings, listen_address
from tests.abmesh.cli.calls import call


def test_state_is_beside_the_document_by_default() -> None:
    assert Settings(Path("/etc/ab/experiments.yaml")).state_folder == Path("/etc/ab/.abmesh/experiments")
    assert Settings(Path("experiments.yaml")).state_folder == Path.cwd() / ".abmesh" / "experiments"
    settings = Settings(Path("e.yaml"), state_dir=Path("/var/lib/abmesh"))
    assert settings.state_folder == Path("/var/lib/abmesh")
    assert settings.journal_path == Path("/var/lib/abmesh/journal.jsonl")


def test_an_envoys_address_loses_its_last_slash() -> None:
    assert Settings(Path("e"), envoys=("http://127.0.0.1:9901/",)).envoys == ("http://127.0.0.1:9901",)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"interval": timedelta(milliseconds=99)}, "allowed: 100ms or more"),
        ({"settle": timedelta(seconds=-1)}, "settle"),
        ({"timeout": timedelta()}, "timeout 0s"),
        ({"envoys": ("127.0.0.1:9901",)}, "http://HOST:PORT"),
        ({"envoys": ("ftp://127.0.0.1",)}, "http://HOST:PORT"),
        ({"envoys": ("http://",)}, "http://HOST:PORT"),
        ({"envoys": ("http://h:99999",)}, "Port out of range"),
        ({"envoys": ("http://h:9901/?x=1",)}, "http://HOST:PORT"),
        ({"envoys": ("http://me:secret@h:9901",)}, "password"),
        ({"envoys": ("http://h:1", "http://h:1/")}, "twice"),
        ({"routes_file": Path("/run/routes.txt")}, "an absolute path that ends in .json or .yaml"),
        ({"warmups": ("127.0.0.1:9902",)}, "warm-up listener; write http://HOST:PORT, such as http://127.0.0.1:9902"),
        ({"warmups": ("http://me:secret@h:9902",)}, "password"),
        ({"warmups": ("http://h:1", "http://h:1/")}, "twice"),
        ({"http_listen": "9103"}, "HOST:PORT"),
        ({"envoys": ("http://h:9901/\n",)}, "http://HOST:PORT"),
        ({"source": "graphite"}, "allowed: envoy, prometheus"),
        ({"source": "prometheus"}, "--url"),
        ({"url": "http://h:9090"}, "--source prometheus"),
        ({"source": "prometheus", "url": "http://h:9090", "envoys": ("http://h:9901",)}, "--envoy"),
        ({"source": "prometheus", "url": "h:9090"}, "http://127.0.0.1:9090"),
        ({"source": "prometheus", "url": "http://h:9090/?query=up"}, "http://HOST:PORT"),
        ({"source": "prometheus", "url": "http://me:secret@h:9090"}, "password"),
        (
            {"source": "prometheus", "url": "http://h:9090", "max_age": timedelta(milliseconds=999)},
            "allowed: 1s or more",
        ),
        *(
            ({"source": "prometheus", "url": "http://h:9090", "selector": text}, "not a selector of targets")
            for text in (
                "",
                "envoy",
                "job=envoy",
                'job="envoy"}',
                'job="a" job="b"',
                'job="a",',
                'job="a\n"',
                'job="a\\"',
            )
        ),
    ],
)
def test_an_invalid_setting_is_refused_and_the_error_says_what_is_allowed(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(SettingsError, match=says) as caught:
        Settings(Path("e.yaml"), **changes)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "selector", ['job="envoy"', 'job=~"envoy|edge", namespace!="test"', 'path="say \\"hi\\" {}"', 'job="envoy\'s"']
)
def test_a_prometheus_server_and_its_targets(selector: str) -> None:
    settings = Settings(Path("e"), source="prometheus", url="https://h/prometheus/", selector=selector)
    assert (settings.url, settings.selector) == ("https://h/prometheus", selector)


def test_addresses_to_listen_on() -> None:
    assert listen_address("127.0.0.1:9103") == ("127.0.0.1", 9103)
    assert listen_address("[::1]:0") == ("::1", 0)


@pytest.mark.parametrize(
    "text", ["", ":9103", "h", "h:", "h:x", "h:65536", "::1:80", "h:-1", "a b:1", "a\x07b:1", "a..b:1"]
)
def test_invalid_addresses_to_listen_on_are_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="HOST:PORT"):
        listen_address(text)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--envoy", "nonsense"], "http://HOST:PORT"),
        (["--envoy", "http://h:1", "--warmup", "nonsense"], "http://127.0.0.1:9902"),
        (["--envoy", "http://h:1", "--interval", "x"], "not a duration"),
        (["--source", "prometheus"], "--url http://127.0.0.1:9090"),
        (["--source", "prometheus", "--url", "http://h:1", "--max-age", "x"], "not a duration"),
        (["--envoy", "http://h:1", "--state", "/dev/null/x"], "--state"),
    ],
)
def test_the_command_refuses_without_a_traceback(flags: list[str], says: str) -> None:
    called = call("controller", *flags)
    assert called.code in (1, 2)
    assert says in called.err
    assert "Traceback" not in called.err


@pytest.mark.parametrize("port", ["9" * 5000, "000000000080"])
def test_a_port_of_many_digits_is_refused_in_a_short_line(port: str) -> None:
    with pytest.raises(SettingsError, match="HOST:PORT") as caught:
        listen_address(f"127.0.0.1:{port}")
    assert len(str(caught.value)) < 500


def test_an_envoys_port_of_many_digits_is_refused_in_a_short_line() -> None:
    with pytest.raises(SettingsError, match="http://HOST:PORT") as caught:
        Settings(Path("e"), envoys=("http://127.0.0.1:" + "9" * 5000,))
    assert len(str(caught.value)) < 800


def test_the_environment_names_document_and_state_and_flags_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[Settings] = []

    def note(settings: Settings, trial: object) -> int:
        assert trial is None, "there are no EnvoyFilters to try"
        used.append(settings)
        return 0

    monkeypatch.setattr("controller.wiring.run", note)
    monkeypatch.setenv("ABMESH_CONFIG", "/etc/one.yaml")
    monkeypatch.setenv("ABMESH_STATE", "/var/one")
    assert call("controller").code == 0
    flags = ("--config", "/etc/two.yaml", "--state", "/var/two", "--routes-file", "/run/routes.json")
    assert call("controller", *flags).code == 0
    assert [item.routes_file for item in used] == [None, Path("/run/routes.json")]
    monkeypatch.delenv("ABMESH_CONFIG")
    monkeypatch.setenv("ABMESH_STATE", "")
    assert call("controller").code == 0
    assert [(str(item.config), item.state_dir and str(item.state_dir)) for item in used] == [
        ("/etc/one.yaml", "/var/one"),
        ("/etc/two.yaml", "/var/two"),
        ("experiments.yaml", None),
    ]
