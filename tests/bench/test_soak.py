"""What the soak says to a server, and what it takes for a fault."""

from __future__ import annotations

from collections import Counter

import hpack
import pytest
from hyperframe.frame import Frame, HeadersFrame

from bench import soak_messages
from bench.soak import Soaked
from bench.soak_messages import Due, message
from tests.paths import ROOT

RECORDED = ROOT / "tests" / "ext_proc" / "conformance" / "recorded" / "envoy.bin"


def decoded(decoder: hpack.Decoder, block: bytes) -> list[tuple[str, str]]:
    return [(str(name), str(value)) for name, value in decoder.decode(block)]


def recorded_headers() -> list[list[tuple[str, str]]]:
    """Of every call of a real Envoy."""
    rest, decoder, found = RECORDED.read_bytes().removeprefix(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), hpack.Decoder(), []
    while len(rest) >= 9:
        frame, size = Frame.parse_frame_header(memoryview(rest[:9]))
        frame.parse_body(memoryview(rest[9 : 9 + size]))
        rest = rest[9 + size :]
        if isinstance(frame, HeadersFrame):
            found.append(decoded(decoder, frame.data))
    return found


def test_most_peers_send_exactly_the_headers_that_envoy_sends() -> None:
    decoder = hpack.Decoder()
    ours = [decoded(decoder, block) for block in soak_messages.USUAL_BLOCKS]
    recorded = recorded_headers()
    assert len(recorded) > 2
    assert all(headers == ours[0] == ours[1] for headers in recorded)


def test_users_differ_and_so_do_the_answers_that_are_due() -> None:
    messages = [message(user, decides=True) for user in range(200)]
    assert len(set(messages)) == 200
    due = Due()
    answers = [due.answer(asked) for asked in messages]
    assert len(set(answers)) > 50  # each has one of a hundred slices and more
    assert answers == [due.answer(asked) for asked in messages]


@pytest.mark.parametrize(
    ("usual", "faults"),
    [(900, []), (None, []), (500, ["only 50% of the calls went the usual way"])],
    ids=["most", "no such way", "few"],
)
def test_a_soak_that_does_not_go_the_usual_way_proves_nothing_and_fails(usual: int | None, faults: list[str]) -> None:
    soaked = Soaked(answered=950, given_up=Counter(headers=50), left=(0, 0), usual=usual)
    assert soaked.faults() == faults


def test_memory_that_grows_is_a_fault() -> None:
    samples: list[tuple[float, int, int | None, float]] = [(float(number), 1, 1, 50.0 + number) for number in range(30)]
    assert Soaked(samples=samples, left=(0, 0)).faults() == ["memory grew by 10.0 MB"]
    assert not Soaked(samples=[(*sample[:3], 50.0) for sample in samples], left=(0, 0)).faults()
