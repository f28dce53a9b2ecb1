import os
import sys
from pathlib import Path

from ext_proc.settings import Settings, Tcp, Unix
from ext_proc.workers import supervisor


def test_a_worker_gets_its_own_addresses() -> None:
    settings = Settings(Path("x.yaml"), ("127.0.0.1:0", "unix:/run/x.sock"), workers=2)
    addresses = (Tcp("127.0.0.1", 4711), Unix(Path("/run/x.sock")))
    first, second = (supervisor._command(settings, addresses, index) for index in range(2))
    assert first[0] == sys.executable
    assert first[-4:] == ("--listen", "127.0.0.1:4711", "--listen", "unix:/run/x.sock")
    assert second[-4:] == ("--listen", "127.0.0.1:4711", "--listen", "unix:/run/x.sock.1")


def test_workers_import_what_the_supervisor_imports() -> None:
    inherited = supervisor._environment()["PYTHONPATH"].split(os.pathsep)
    assert inherited == [str(Path(entry).absolute()) for entry in sys.path]
