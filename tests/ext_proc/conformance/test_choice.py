"""Both transports hand the route's choice over, also where one connection carries the calls of several routes."""

from __future__ import annotations

import pytest

from abmesh.experiment.names import CHOICE
from tests.ext_proc.clients import USER
from tests.ext_proc.conformance.answers import answer_to
from tests.ext_proc.conformance.frames import REQUEST, message
from tests.ext_proc.conformance.peer import peer
from tests.ext_proc.conformance.served import Served
from tests.ext_proc.samples import headers_set

pytestmark = pytest.mark.process

NONE = {"x-ab-reason": "unmatched"}


def test_each_call_gets_the_answer_of_its_own_route(served: Served) -> None:
    name = headers_set(answer_to(USER))["x-ab-experiment"]
    chosen, other = (CHOICE, name), (CHOICE, "of-another-team")
    order = [(), (chosen,), (other,), (other,), (chosen,), (), (other,)]
    with peer(served.tcp) as found:
        for place, choice in enumerate(order):
            stream = 2 * place + 1
            found.send(found.headers(stream, [*REQUEST, *choice]), found.data(stream, message(USER), end=True))
            (answer,) = found.result(stream).messages
            expected = NONE if choice == (other,) else headers_set(answer_to(USER))
            assert headers_set(answer) == expected, place
