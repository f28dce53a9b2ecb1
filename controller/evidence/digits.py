"""Converts text to numbers, thousands in each numpy step. Pure; for :mod:`controller.evidence.columns`."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]
Positions = NDArray[np.int64]

PAD: Final = b"0" * 16
_ZEROS: Final = np.uint64(0x3030303030303030)
_HIGH: Final = np.uint64(0xF0F0F0F0F0F0F0F0)
_SIX: Final = np.uint64(0x0606060606060606)
LAST_BYTES: Final = np.array([0, *(2**64 - 2 ** (8 * (8 - n)) for n in range(1, 9))], dtype=np.uint64)
"""Masks that keep a word's last n characters, for n = 0..8; the last character is in the highest byte."""


class IrregularError(Exception):
    """The fast path does not handle this answer; :mod:`controller.evidence.parse` may."""


def named_values(lines: bytes) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Split lines of ``name: value``.

    Returns:
        The characters of all names, each followed by its colon and a space; and the values, shape (lines,).

    Raises:
        IrregularError: a line has another form, or a value more than sixteen digits.
    """
    padded = b"\n".join([PAD, lines, b""]) if lines else PAD + b"\n"
    characters = np.frombuffer(padded, np.uint8)
    # Each line must be a name, a colon, a space and a value, with no other space.
    spaces = np.flatnonzero(characters == ord(" "))
    breaks = np.flatnonzero(characters == ord("\n"))
    blanks = np.count_nonzero(characters <= ord(" "))
    if len(breaks) != len(spaces) + 1 or blanks != len(breaks) + len(spaces):
        raise IrregularError
    starts, ends = breaks[:-1], breaks[1:]
    if not ((starts < spaces - 1) & (spaces < ends) & (characters[spaces - 1] == ord(":"))).all():
        raise IrregularError
    lengths = np.stack([spaces - starts, ends - spaces], axis=1).ravel()
    named = np.repeat(np.tile(np.array([True, False]), len(spaces)), lengths)
    return characters[len(PAD) + 1 :][named], decimals(padded, ends, ends - spaces - 1)


def decimals(padded: bytes, ends: Positions, lengths: Positions) -> NDArray[np.int64]:
    """Convert the numbers that end at some positions and have so many digits each, both shape (numbers,).

    Raises:
        IrregularError: one of them has more than sixteen digits, or a character that is not a digit.
    """
    if not len(ends):
        return np.zeros(0, np.int64)
    longest = lengths.max()
    if longest > 16 or lengths.min() < 1:
        raise IrregularError
    words = words_of(padded)
    value = _eight_digits(words[ends - 8], np.minimum(lengths, 8))
    if longest > 8:
        value = value + _eight_digits(words[ends - 16], np.maximum(lengths - 8, 0)) * np.uint64(10**8)
    return value.astype(np.int64)


def _eight_digits(words: Words, lengths: Positions) -> Words:
    """Convert the last ``lengths`` characters of each word.

    Joins digits to numbers below 100, these to numbers below 10,000, and these to the result. Each of the three steps
    is one multiplication for all pairs in a word.
    """
    keep = LAST_BYTES[lengths]
    digits = (words & keep) | (_ZEROS & ~keep)
    if not (((digits & _HIGH) == _ZEROS) & (((digits + _SIX) & _HIGH) == _ZEROS)).all():
        raise IrregularError
    digits = digits - _ZEROS
    digits = ((digits * np.uint64(2561)) >> np.uint64(8)) & np.uint64(0x00FF00FF00FF00FF)
    digits = ((digits * np.uint64(6553601)) >> np.uint64(16)) & np.uint64(0x0000FFFF0000FFFF)
    value: Words = (digits * np.uint64(42949672960001)) >> np.uint64(32)
    return value


def words_of(padded: bytes) -> Words:
    """The eight characters from each position on as one integer, the first in the lowest byte."""
    return np.ndarray((len(padded) - 7,), np.dtype("<u8"), buffer=padded, strides=(1,))
