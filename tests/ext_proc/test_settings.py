import contextlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abmesh.experiment.errors import SettingsError
from abmesh.experiment.names import ENV_TRANSPORT
from ext_proc import server
from ext_proc.__main__ import main
from ext_proc.settings import Settings, Tcp, Tls, Unix, parse_address, parse_metrics, parse_tls, parse_transport
from tests.abmesh.cli.calls import call


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:50051", Tcp("127.0.0.1", 50051)),
        ("localhost:0", Tcp("localhost", 0)),
        ("[::1]:1", Tcp("::1", 1)),
        ("unix:/run/x.sock", Unix(Path("/run/x.sock"))),
        ("unix:x.sock", Unix(Path("x.sock"))),
    ],
)
def test_an_address_is_parsed_and_written_the_same(text: str, address: Tcp | Unix) -> None:
    assert parse_address(text) == address
    assert str(address) == text


@pytest.mark.parametrize(
    "text",
    [
        *("", ":", "50051", ":50051", "host:", "host:65536", "host:-1", "host:x", "host:²", "::1:50051"),
        *("a b:1", "a\x07b:1"),
        *("x" * 64 + ":1", "a..b:1", pytest.param("host:" + "9" * 5000, id="long")),
        *("unix:", "unix:@abmesh", "unix:/run/", "unix:" + "x" * 91, "unix:a\0b", "[]:1", "http://host:1"),
    ],
)
def test_a_bad_address_is_refused_with_what_is_allowed(text: str) -> None:
    with pytest.raises(SettingsError, match=r"^--listen: not .*found .*allowed: ") as caught:
        Settings(Path("x.yaml"), listen=(text,))
    assert len(str(caught.value)) < 400


@given(st.text())
def test_any_text_is_an_address_or_refused(text: str) -> None:
    with contextlib.suppress(SettingsError):
        parse_address(text)


@pytest.mark.parametrize(
    ("changes", "flag"),
    [
        ({"listen": ()}, "--listen"),
        ({"listen": ("a:1", "a:1")}, "--listen"),
        ({"metrics": "unix:/x"}, "--metrics"),
        ({"workers": 0}, "--workers"),
        ({"workers": 65}, "--workers"),
        ({"max_connections": 0}, "--max-connections"),
        ({"max_connections": 65_537}, "--max-connections"),
        ({"drain_seconds": -1.0}, "--drain"),
        ({"drain_seconds": float("nan")}, "--drain"),
        ({"poll_interval": 0.0}, "--poll"),
        ({"poll_interval": float("inf")}, "--poll"),
    ],
)
def test_invalid_settings_are_refused_with_the_name_of_their_flag(changes: dict[str, Any], flag: str) -> None:
    with pytest.raises(SettingsError, match=f"^{flag}: "):
        Settings(Path("x.yaml"), **changes)


def test_usual_settings_are_accepted() -> None:
    settings = Settings(Path("x.yaml"), ("127.0.0.1:0", "127.0.0.1:0", "unix:/x"), metrics=None, workers=4)
    assert settings.addresses == (Tcp("127.0.0.1", 0), Tcp("127.0.0.1", 0), Unix(Path("/x")))


def test_metrics_are_off_by_default_and_by_off() -> None:
    assert Settings(Path("x.yaml")).metrics is None
    assert (parse_metrics(None), parse_metrics("off"), parse_metrics("host:1")) == (None, None, "host:1")


def test_a_transport_is_one_of_two() -> None:
    assert parse_transport("nghttp2") == "nghttp2"
    with pytest.raises(SettingsError, match="ABMESH_TRANSPORT: not a transport; found 'h2'; allowed: grpcio, nghttp2"):
        parse_transport("h2")


def test_tls_needs_a_certificate_and_a_key() -> None:
    cert, key, authority = Path("c"), Path("k"), Path("a")
    assert parse_tls(None, None, None) is None
    assert parse_tls(cert, key, authority) == Tls(cert, key, authority)
    for some in ((cert, None, None), (None, key, None), (None, None, authority), (cert, None, authority)):
        with pytest.raises(SettingsError, match="--tls-cert, --tls-key: TLS needs both"):
            parse_tls(*some)


@pytest.mark.parametrize(("variable", "code"), [("h2", 2), ("grpcio", 0)])
def test_the_environment_chooses_the_transport(monkeypatch: pytest.MonkeyPatch, variable: str, code: int) -> None:
    seen = []

    def run(settings: Settings) -> int:
        seen.append(settings.transport)
        return 0

    monkeypatch.setenv(ENV_TRANSPORT, variable)
    monkeypatch.setattr(server, "run", run)
    with pytest.raises(SystemExit) if code else contextlib.nullcontext():
        main([])
    called = call("ext-proc")
    assert called.code == code, called
    assert (f"{ENV_TRANSPORT}: not a transport; found 'h2'" in called.err) == bool(code)
    assert seen == ([] if code else ["grpcio", "grpcio"])
