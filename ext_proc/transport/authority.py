"""Lets the HTTP/2 engine accept the ``:authority`` that Envoy sends where it is the name of a cluster. Pure.

Envoy calls us with the cluster's name as ``:authority``. Istio's names hold ``|``, those of other control planes ``/``,
which no host has: libnghttp2 resets such a stream without an event, and every request would go to the control. Nothing
of ours reads the value, so the characters that it does not accept are replaced before it sees them.

:mod:`ext_proc.transport.connection` passes the received bytes through a :class:`Mender` until it knows, from the first
call, that its peer needs none.
"""

from __future__ import annotations

from typing import Final

_PREFACE: Final = 24
"""Bytes of ``PRI * HTTP/2.0...`` before the first frame."""

_HEADER: Final = 9
"""Bytes of a frame's header: length, type, flags, stream."""

_LONGEST: Final = 16_384
"""Bytes of a frame's payload that the engine accepts."""

_HEADERS: Final = 1
_PADDED, _PRIORITY = 0x08, 0x20

_MOST_FIELDS: Final = 8
"""``:authority`` is one of the first four: others may not come before it."""

_LONGEST_VALUE: Final = 512
"""Bytes of a value that is looked at, so that a peer cannot keep us busy with it."""

_NAME: Final = b":authority"
_INDEX: Final = 1
"""Of ``:authority`` in HPACK's static table (RFC 7541, appendix A)."""

_REFUSED: Final = b' "#/<>?@\\^`{|}'
_REPLACED: Final = bytes.maketrans(_REFUSED, b"+" * len(_REFUSED))


class Mender:
    """Replaces characters in the ``:authority`` of one connection's calls.

    The value keeps its length: a later call may refer to it in HPACK's dynamic table, whose size depends on lengths.

    Attributes:
        needed: None before the first call; then whether its ``:authority`` had to be mended.
    """

    __slots__ = ("_always", "_passing", "_waiting", "needed")

    def __init__(self, *, always: bool = False) -> None:
        """With ``always``, go on even if the first call needs no mending."""
        self._always = always
        self.needed: bool | None = None
        self._passing = _PREFACE
        self._waiting = b""

    @property
    def done(self) -> bool:
        """Whether the peer needs no mending, so that its bytes need not pass through here any more."""
        return self.needed is False and not self._always

    def feed(self, data: bytes) -> bytes:
        """The bytes for the engine; a header block that is incomplete is kept until it is complete."""
        data = self._waiting + data
        self._waiting = b""
        start, end, mended = self._passing, len(data), []
        taken = 0
        while start + _HEADER <= end:
            length = int.from_bytes(data[start : start + 3], "big")
            after = start + _HEADER + length
            if data[start + 3] == _HEADERS and length <= _LONGEST:
                if after > end:
                    break
                frame = self._frame(data[start:after])
                if frame is not None:
                    mended += [data[taken:start], frame]
                    taken = after
            start = after
        if self.done:  # nothing is kept for a next time
            return b"".join((*mended, data[taken:]))
        if start >= end:
            self._passing = start - end
        else:
            self._passing = 0
            self._waiting, data = data[start:], data[:start]
        return b"".join((*mended, data[taken:])) if mended else data

    def _frame(self, frame: bytes) -> bytes | None:
        """The mended frame; None if it is fine."""
        flags, start, end = frame[4], _HEADER, len(frame)
        if flags & _PADDED and start < end:
            end -= frame[start]
            start += 1
        if flags & _PRIORITY:
            start += 5
        found = _find(frame, start, end)
        mended = None if found is None else _mended(*found[2:])
        if self.needed is None:
            self.needed = mended is not None
        if found is None or mended is None:
            return None
        first, last = found[:2]
        payload = b"".join((frame[_HEADER:first], mended, frame[last:]))
        return len(payload).to_bytes(3, "big") + frame[3:_HEADER] + payload


def _find(frame: bytes, start: int, end: int) -> tuple[int, int, bytes, bool] | None:
    """The value of ``:authority`` where it is written out: from, to, its bytes, and whether they are Huffman's."""
    try:
        for _ in range(_MOST_FIELDS):
            if start >= end:
                break
            first = frame[start]
            if first & 0x80:
                _, start = _integer(frame, start, 7)
                continue
            if first & 0xE0 == 0x20:  # the table's new size
                _, start = _integer(frame, start, 5)
                continue
            index, start = _integer(frame, start, 6 if first & 0x40 else 4)
            ours = index == _INDEX
            if index == 0:
                name, coded, start = _string(frame, start)
                ours = (_decoded(name) if coded else name) == _NAME
            begin = start
            value, coded, start = _string(frame, start)
            if ours:
                return (begin, start, value, coded) if start <= end else None
    except IndexError:  # it goes on in another frame, or is broken, which the engine will find
        return None
    return None


def _integer(data: bytes, start: int, bits: int) -> tuple[int, int]:
    """An integer, and where it ends (RFC 7541, section 5.1)."""
    most = (1 << bits) - 1
    value = data[start] & most
    start += 1
    if value < most:
        return value, start
    shift = 0
    while True:
        byte = data[start]
        start += 1
        value += (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            return value, start
        if shift > 28:
            raise IndexError


def _string(data: bytes, start: int) -> tuple[bytes, bool, int]:
    """A string's bytes, whether they are Huffman's, and where it ends (RFC 7541, section 5.2)."""
    coded = bool(data[start] & 0x80)
    length, start = _integer(data, start, 7)
    return data[start : start + length], coded, start + length


def _mended(value: bytes, coded: bool) -> bytes | None:
    """The string to write instead, uncompressed; None if the value is fine, or not to be understood."""
    plain = _decoded(value) if coded else value
    if plain is None:
        return None
    better = plain.translate(_REPLACED)
    if better == plain:
        return None
    return _length(len(better)) + better


def _length(length: int) -> bytes:
    """A string's length, for one that is not Huffman's."""
    if length < 0x7F:
        return bytes((length,))
    rest, written = length - 0x7F, bytearray((0x7F,))
    while rest >= 0x80:
        written.append(rest & 0x7F | 0x80)
        rest >>= 7
    written.append(rest)
    return bytes(written)


def _decoded(value: bytes) -> bytes | None:
    """A Huffman-coded string of printable ASCII (RFC 7541, appendix B); None for anything else, or a long one."""
    if len(value) > _LONGEST_VALUE:
        return None
    plain = bytearray()
    code, bits = 0, 0
    for byte in value:
        for shift in range(7, -1, -1):
            code = code << 1 | byte >> shift & 1
            bits += 1
            found = _CODES.get((bits, code))
            if found is not None:
                plain.append(found)
                code, bits = 0, 0
            elif bits > _LONGEST_CODE:
                return None
    return bytes(plain) if bits < 8 and code == (1 << bits) - 1 else None


_ALPHABET: Final = (
    (5, 0x0, b"012aceiost"),
    (6, 0x14, b" %-./3456789=A_bdfghlmnpru"),
    (7, 0x5C, b":BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz"),
    (8, 0xF8, b"&*,;XZ"),
    (10, 0x3F8, b'!"()?'),
    (11, 0x7FA, b"'+|"),
    (12, 0xFFA, b"#>"),
    (13, 0x1FF9, b"$@[]~"),
    (14, 0x3FFC, b"^}"),
    (15, 0x7FFC, b"<`{"),
    (19, 0x7FFF0, b"\\"),
)
"""Printable ASCII by the length of its codes in bits; the codes of one length are consecutive from the first."""

_CODES: Final = {
    (bits, first + number): byte for bits, first, bytes_ in _ALPHABET for number, byte in enumerate(bytes_)
}
_LONGEST_CODE: Final = max(bits for bits, _, _ in _ALPHABET)
