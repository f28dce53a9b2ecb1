import socket
import stat
from pathlib import Path

import pytest

from abmesh.experiment.errors import StartError
from ext_proc.settings import Tcp
from ext_proc.transport.sockets import UnixSocket, bound, reserve

pytestmark = pytest.mark.process


def published(path: Path) -> tuple[UnixSocket, socket.socket]:
    """A published socket."""
    unix = UnixSocket(path)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(unix.hidden))
    listener.listen()
    unix.publish()
    return unix, listener


def test_a_published_socket_is_open_to_owner_and_group_only(tmp_path: Path) -> None:
    path = tmp_path / "x.sock"
    unix, listener = published(path)
    with listener, socket.socket(socket.AF_UNIX) as client:
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        client.connect(str(path))
        assert list(tmp_path.iterdir()) == [path]
        unix.remove()
        assert not list(tmp_path.iterdir())
        unix.remove()


def test_a_socket_that_another_server_put_there_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "x.sock"
    first, one = published(path)
    with one:
        second, two = published(path)
        with two, socket.socket(socket.AF_UNIX) as client:
            first.remove()
            client.connect(str(path))
            second.remove()
            assert not path.exists()


def test_a_socket_that_was_never_published_leaves_nothing_behind(tmp_path: Path) -> None:
    unix = UnixSocket(tmp_path / "x.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(unix.hidden))
        unix.remove()
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_not_a_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("data")
    with pytest.raises(StartError, match="not a socket; move it away"):
        UnixSocket(path)
    assert path.read_text() == "data"


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="must be a folder that the server may write to"):
        UnixSocket(tmp_path / "missing" / "x.sock")


def test_a_reserved_port_can_only_be_shared_with_reuseport() -> None:
    held, address = reserve(Tcp("127.0.0.1", 0))
    with held, socket.socket() as polite, socket.socket() as rude:
        assert address.port
        polite.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        polite.bind((address.host, address.port))
        polite.listen()
        with pytest.raises(OSError, match="in use"):
            rude.bind((address.host, address.port))
        with socket.create_connection((address.host, address.port), timeout=5):
            polite.settimeout(5)
            polite.accept()[0].close()  # it went to the socket that listens


def test_a_port_that_is_not_available_is_refused() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = Tcp("127.0.0.1", taken.getsockname()[1])
        with pytest.raises(StartError, match=f"cannot listen on {address}"):
            reserve(address)
    with pytest.raises(StartError, match="cannot listen on"):
        reserve(Tcp("no-such-host.invalid", 0))


def speaks_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "::1"])
def test_all_addresses_of_a_host_get_one_port_that_workers_can_share(host: str) -> None:
    if host == "::1" and not speaks_ipv6():
        pytest.skip("no IPv6 here")
    first = bound(Tcp(host, 0))
    try:
        ports = {made.getsockname()[1] for made in first}
        assert len(ports) == 1
        second = bound(Tcp(host, ports.pop()))
        assert [made.getsockname() for made in second] == [made.getsockname() for made in first]
    finally:
        for made in (*first, *second):
            made.close()


def test_addresses_that_are_not_available_are_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = Tcp("127.0.0.1", taken.getsockname()[1])
        with pytest.raises(StartError, match=f"cannot listen on {address}: is the port already in use"):
            bound(address)
    with pytest.raises(StartError, match=r"cannot listen on 192\.0\.2\.1:0"):
        bound(Tcp("192.0.2.1", 0))
