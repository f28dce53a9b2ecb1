"""Bytes that peers might send, as hypothesis makes them: random frames, and recordings of real peers that were mangled.

The recordings are what Envoy 1.40 and grpcio 1.85 wrote to a server: preface, settings, and a dozen calls.
"""

from __future__ import annotations

from pathlib import Path
from random import Random

from hypothesis import strategies as st

from tests.ext_proc.clients import USER
from tests.ext_proc.conformance.peer import PREFACE, REQUEST, frame, message, plain
from tests.ext_proc.conformance.test_calls import LAST

RECORDINGS = {path.stem: path.read_bytes() for path in sorted((Path(__file__).parent / "recorded").glob("*.bin"))}
HELLO = PREFACE + frame(4, 0, 0)
BLOCKS = (
    plain(),
    plain((*REQUEST, ("grpc-timeout", "10m"))),
    plain((*REQUEST, ("grpc-encoding", "gzip"))),
    plain([(name, "/grpc.health.v1.Health/Watch" if name == ":path" else value) for name, value in REQUEST]),
    plain([(name, "/grpc.health.v1.Health/Check" if name == ":path" else value) for name, value in REQUEST]),
    plain([("x-some", "trailer")]),
    b"\x82\x86\x84",
)
BODIES = (
    message(USER),
    message(LAST),
    message(b""),
    message(USER, 1),
    message(USER) * 3,
    message(b"", 0, 2**31),
    b"\0\0",
)


def _streams() -> st.SearchStrategy[int]:
    return st.sampled_from((1, 3, 5, 7, 1, 3, 0, 2, 99, 2**31 - 1, 2**31 + 1))


def _payloads() -> st.SearchStrategy[bytes]:
    return st.one_of(st.sampled_from(BODIES), st.sampled_from(BLOCKS), st.binary(max_size=40))


def _likely() -> st.SearchStrategy[bytes]:
    """Frames as a peer in its right mind would send, if not in this order."""
    streams = st.sampled_from((1, 3, 5, 7, 9, 11))
    return st.one_of(
        st.builds(lambda s, b, f: frame(1, f, s, b), streams, st.sampled_from(BLOCKS), st.sampled_from((4, 5))),
        st.builds(lambda s, b, f: frame(0, f, s, b), streams, st.sampled_from(BODIES), st.sampled_from((0, 1))),
        st.builds(lambda s, n: frame(3, 0, s, n.to_bytes(4, "big")), streams, st.integers(0, 16)),
        st.builds(lambda s, n: frame(8, 0, s, n.to_bytes(4, "big")), st.sampled_from((0, 1, 3, 5)), st.integers(1, 9)),
        st.builds(lambda f: frame(6, f, 0, b"abcdefgh"), st.sampled_from((0, 1))),
        st.builds(
            lambda n, v: frame(4, 0, 0, n.to_bytes(2, "big") + v.to_bytes(4, "big")),
            st.sampled_from((1, 3, 4, 6)),
            st.sampled_from((0, 1, 100, 65535, 2**20)),
        ),
    )


def _unlikely() -> st.SearchStrategy[bytes]:
    """Any frame."""
    return st.builds(
        lambda kind, flags, stream, payload, length: frame(kind, flags, stream, payload, length),
        st.integers(0, 12),
        st.integers(0, 255),
        _streams(),
        _payloads(),
        st.one_of(st.none(), st.none(), st.integers(0, 50)),
    )


def conversations() -> st.SearchStrategy[bytes]:
    """A hello and frames."""
    usual = st.lists(_likely(), max_size=30)
    odd = st.lists(st.one_of(_likely(), _likely(), _unlikely()), max_size=30)
    return st.one_of(usual, odd).map(lambda frames: HELLO + b"".join(frames))


def mangled() -> st.SearchStrategy[bytes]:
    """A recording in which something is wrong."""
    return st.builds(
        lambda name, chance, times: mangle(RECORDINGS[name], chance, times),
        st.sampled_from(sorted(RECORDINGS)),
        st.randoms(use_true_random=False),
        st.integers(0, 4),
    )


def batches(thrown: st.SearchStrategy[bytes]) -> st.SearchStrategy[list[bytes]]:
    """A few of them, so that the server need not be looked at after each."""
    return st.lists(thrown, min_size=1, max_size=8)


def mangle(data: bytes, chance: Random, times: int) -> bytes:
    """Change some bytes, or whole frames."""
    parts = split(data)
    for _ in range(times):
        at, other = chance.randrange(len(parts)), chance.randrange(len(parts))
        part = parts[at]
        match chance.randrange(7):
            case 0:
                parts[at] = parts[other]
            case 1:
                parts[at], parts[other] = parts[other], parts[at]
            case 2:
                parts[at] = part + part
            case 3:
                parts[at] = part[: chance.randrange(len(part) + 1)]
            case 4 if part:
                place = chance.randrange(len(part))
                parts[at] = part[:place] + bytes((chance.randrange(256),)) + part[place + 1 :]
            case 5:
                place = chance.randrange(len(part) + 1)
                parts[at] = part[:place] + chance.randbytes(chance.randrange(1, 9)) + part[place:]
            case _:
                parts[at] = b""
    return b"".join(parts)


def split(data: bytes) -> list[bytes]:
    """The preface and the frames of a recording."""
    parts, at = [data[: len(PREFACE)]], len(PREFACE)
    while at < len(data):
        size = 9 + int.from_bytes(data[at : at + 3], "big")
        parts.append(data[at : at + size])
        at += size
    return parts
