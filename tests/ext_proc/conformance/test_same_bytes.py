"""The two transports side by side: the same frames in, the same messages, statuses and trailers out."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.ext_proc.conformance.answers import MESSAGES, expected
from tests.ext_proc.conformance.frames import REQUEST, Headers, message
from tests.ext_proc.conformance.mangling import RECORDINGS, split
from tests.ext_proc.conformance.peer import Peer, Stream, peer
from tests.ext_proc.conformance.served import TRANSPORTS, Served, serving
from tests.ext_proc.samples import request_headers

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Served]]:
    """A server of each transport, with the same rules and identities."""
    folder = tmp_path_factory.mktemp("pair")
    with serving(folder / "1", TRANSPORTS[0]) as first, serving(folder / "2", TRANSPORTS[1]) as second:
        for server in (first, second):
            server.command("set_serving")
        yield [first, second]


Outcome = tuple[list[bytes], str | None, dict[str, str]]


def outcome(found: Peer, stream: int, messages: list[bytes], headers: Headers, cut: int) -> Outcome:
    """The outcome of a call: messages, status, and all other headers and trailers."""
    body = b"".join(message(each) for each in messages)
    found.send(found.headers(stream, headers), found.data(stream, body[:cut]), found.data(stream, body[cut:], end=True))
    got = found.result(stream)
    # grpcio names its encodings in every answer, and sends an empty message where there is none.
    said = {**got.headers, **got.trailers}
    said.pop("grpc-accept-encoding", None)
    if not said.get("grpc-message"):
        said.pop("grpc-message", None)
    return got.messages, got.status, said


def any_message() -> st.SearchStrategy[bytes]:
    values = st.binary(max_size=30)
    names = st.sampled_from(("x-user-id", "cookie", "x-user-segment", "x-user-group", "other"))
    targets = st.sampled_from((b"/v1/chat", b"/v1/?user_id=u", b"/other", b"/_ab/events/click", b""))
    headers = st.builds(
        lambda pairs, target: request_headers(pairs, target=target),
        st.lists(st.tuples(names, values), max_size=4),
        targets,
    )
    return st.one_of(st.sampled_from(sorted(MESSAGES.values())), headers, st.binary(max_size=50))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.lists(any_message(), max_size=4), st.integers(0, 300)), min_size=1, max_size=6))
def test_the_same_calls_get_the_same_bytes(pair: list[Served], calls: list[tuple[list[bytes], int]]) -> None:
    seen = []
    for server in pair:
        with peer(server.tcp) as found:
            seen.append(
                [outcome(found, 2 * number + 1, messages, REQUEST, cut) for number, (messages, cut) in enumerate(calls)]
            )
    assert seen[0] == seen[1]
    if len(calls) == 1 and len(calls[0][0]) == 1:
        answer = expected(calls[0][0][0])
        assert seen[0][0][0] == ([] if answer is None else [answer])


@pytest.mark.parametrize("path", ["/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Other", "/a/b"])
@pytest.mark.parametrize("asked", [b"", b"\x0a\x05other"], ids=["known", "unknown"])
def test_the_same_questions_get_the_same_statuses(pair: list[Served], path: str, asked: bytes) -> None:
    headers = [(name, path if name == ":path" else value) for name, value in REQUEST]
    seen = []
    for server in pair:
        with peer(server.tcp) as found:
            answers, status, _ = outcome(found, 1, [asked], headers, 0)
            seen.append((answers, status))
    assert seen[0] == seen[1]


def messages_of(parts: list[bytes], stream: int) -> list[bytes]:
    """The messages that were sent on a stream."""
    sent = Stream()
    for part in parts:
        if part[3] == 0 and int.from_bytes(part[5:9], "big") == stream:
            sent.data += part[9:]
    return sent.messages


@pytest.mark.parametrize("name", RECORDINGS)
def test_what_real_peers_sent_gets_the_same_bytes(pair: list[Served], name: str) -> None:
    seen = []
    for server in pair:
        with Peer(server.tcp) as found:
            parts = split(RECORDINGS[name])
            found.send(*parts[:2])
            for part in parts[2:]:
                if part[3] in (0, 1, 9):  # DATA and headers; resets would come before the answers
                    found.send(part)
            streams = {int.from_bytes(part[5:9], "big") for part in parts[2:] if part[3] == 0}
            sent = {stream: messages_of(parts, stream) for stream in sorted(streams)}
            found.until(lambda: all(len(found.streams[each].messages) >= len(sent[each]) for each in sent))  # noqa: B023
            seen.append({stream: found.streams[stream].messages for stream in sent})
    assert seen[0] == seen[1]
    assert any(seen[0].values())
