"""What must hold whatever one peer does."""

from __future__ import annotations

import time

from tests.ext_proc.clients import USER
from tests.ext_proc.conformance.answers import answer_to
from tests.ext_proc.conformance.peer import LIMIT, Closed, peer
from tests.ext_proc.conformance.served import Served

ANSWER = answer_to(USER)


def served_well(server: Served) -> None:
    """Check that other connections are served: at once by nghttp2, soon by grpcio.

    grpcio refuses calls while it has many, and connections while it restarts after a path that is not UTF-8.
    """
    deadline = time.monotonic() + (LIMIT if server.transport == "grpcio" else 0)
    while True:
        try:
            with peer(server.tcp) as other:
                if other.call(1, USER).messages == [ANSWER]:
                    break
        except (OSError, Closed):
            if time.monotonic() > deadline:
                raise
        assert time.monotonic() < deadline
        time.sleep(0.05)
    server.unharmed()
