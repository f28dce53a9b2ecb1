import contextlib
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from abmesh.experiment.errors import StartError
from ext_proc.settings import Tcp
from ext_proc.transport.sockets import UnixSocket, bound, check_free, hold, taken_over

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


def test_another_programs_socket_is_left_alone_until_it_has_ended(tmp_path: Path) -> None:
    path = tmp_path / "x.sock"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        before = path.stat()
        with pytest.raises(StartError, match="another program listens there"):
            UnixSocket(path)
        assert path.stat().st_ino == before.st_ino
    unix, listener = published(path)
    with listener:
        unix.remove()


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="must be a folder that the server may write to"):
        UnixSocket(tmp_path / "missing" / "x.sock")


@pytest.fixture
def shared_port() -> Iterator[Tcp]:
    """A port whose owner would share it, as Envoy and a server of several workers do."""
    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as taken:
        yield Tcp("127.0.0.1", taken.getsockname()[1])


def test_a_held_port_is_shared_with_workers_and_with_nobody_else() -> None:
    held, address = hold(Tcp("127.0.0.1", 0))
    with contextlib.ExitStack() as stack:
        for made in held:
            stack.enter_context(made)
        with pytest.raises(StartError, match="another program"):
            hold(address)  # before a worker listens
        workers = [stack.enter_context(bound(address, shared=True)[0]) for _ in range(2)]
        for worker in workers:
            worker.listen()
        for refused in (hold, check_free):
            with pytest.raises(StartError, match=f"cannot listen on {address}: another program, or another abmesh"):
                refused(address)
        workers[0].close()
        again = stack.enter_context(bound(address, shared=True)[0])
        again.listen()
        for _ in range(10):  # none goes to the socket that does not listen
            stack.enter_context(socket.create_connection((address.host, address.port), timeout=5))


def test_a_port_that_others_would_share_is_refused_too(shared_port: Tcp) -> None:
    for refused in (hold, check_free):
        with pytest.raises(StartError, match=f"cannot listen on {shared_port}: another program"):
            refused(shared_port)
    with pytest.raises(StartError, match=f"cannot listen on {shared_port}: another program"):
        bound(shared_port, shared=False)


def test_a_port_is_free_again_once_its_owner_has_ended() -> None:
    held, address = hold(Tcp("127.0.0.1", 0))
    with bound(address, shared=True)[0] as listening:
        listening.listen()
        with socket.create_connection((address.host, address.port)):
            listening.accept()[0].close()  # this side closes first, and so keeps the port in TIME-WAIT
    for made in held:
        made.close()
    check_free(address)


def test_a_host_that_nobody_knows_is_refused() -> None:
    with pytest.raises(StartError, match="cannot listen on"):
        hold(Tcp("no-such-host.invalid", 0))


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
    first = bound(Tcp(host, 0), shared=True)
    try:
        ports = {made.getsockname()[1] for made in first}
        assert len(ports) == 1
        second = bound(Tcp(host, ports.pop()), shared=True)
        assert [made.getsockname() for made in second] == [made.getsockname() for made in first]
    finally:
        for made in (*first, *second):
            made.close()


def test_an_address_of_another_machine_is_named() -> None:
    with pytest.raises(StartError, match=r"cannot listen on 192\.0\.2\.1:0: Cannot assign"):
        bound(Tcp("192.0.2.1", 0), shared=False)


def test_a_socket_that_was_deleted_or_taken_over_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "x.sock"
    first, one = published(path)
    with one:
        assert (first.missing, first.taken_over, taken_over([], [first])) == (False, False, False)
        path.unlink()
        assert (first.missing, first.taken_over, taken_over([], [first])) == (True, False, False)
        second, two = published(path)
        with two:
            assert (first.missing, first.taken_over, taken_over([], [first])) == (False, True, True)
            assert not taken_over([], [first, second])
            assert not taken_over([Tcp("127.0.0.1", 1)], [first])
            assert not taken_over([], [])
