import pytest

from abmesh.experiment.errors import SettingsError
from abmesh.mesh.addresses import Endpoint, UnixSocket, address_of, parse_endpoint, parse_ip_endpoint, parse_target


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:50051", Endpoint("127.0.0.1", 50051)),
        ("[::1]:1", Endpoint("::1", 1)),
        ("ext-proc.mesh.svc:65535", Endpoint("ext-proc.mesh.svc", 65535)),
        ("unix:/run/abmesh.sock", UnixSocket("/run/abmesh.sock")),
        ("unix:///run/abmesh.sock", UnixSocket("/run/abmesh.sock")),
    ],
)
def test_targets_are_understood(text: str, expected: Endpoint | UnixSocket) -> None:
    assert parse_target(text, "ext_proc") == expected


@pytest.mark.parametrize(
    "text",
    [
        *("", "localhost", ":80", "a:0", "a:65536", "a:-1", "::1:80", "[zz]:80", "http://a:80", "a:8 0", "a:\uff18"),
        *("unix:", "unix:run", "unix:/" + "a" * 107, "unix:/a\nb"),
    ],
)
def test_what_is_not_a_target_is_refused_with_what_was_found(text: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse_target(text, "ext_proc")
    assert str(caught.value).startswith(f"ext_proc: found {text!r}; allowed: ")


def test_an_address_to_listen_on_may_leave_the_port_to_the_system_but_cannot_be_a_name() -> None:
    assert parse_ip_endpoint("0.0.0.0:0", "listen") == Endpoint("0.0.0.0", 0)
    with pytest.raises(SettingsError, match="listen: found 'localhost:80'; allowed: an IP address"):
        parse_ip_endpoint("localhost:80", "listen")


def test_names_and_addresses_are_distinguished() -> None:
    names = {text: parse_endpoint(text, "x").is_name for text in ("a.b:1", "1.2.3.4:1", "[fe80::1]:1", "1.2.3:1")}
    assert names == {"a.b:1": True, "1.2.3.4:1": False, "[fe80::1]:1": False, "1.2.3:1": True}


def test_addresses_become_messages() -> None:
    assert address_of(UnixSocket("/s")).to_dict() == {"pipe": {"path": "/s"}}
    assert address_of(Endpoint("::1", 5)).to_dict() == {"socketAddress": {"address": "::1", "portValue": 5}}
