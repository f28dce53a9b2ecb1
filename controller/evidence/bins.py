"""Numbers histogram bins by the text of their bounds, thousands at a time. For :mod:`controller.evidence.columns`."""

from __future__ import annotations

from typing import Final

import numpy as np

from abmesh.experiment.errors import SourceError
from controller.evidence.counts import Numbers
from controller.evidence.digits import LAST_BYTES, IrregularError, Positions, Words, words_of
from controller.evidence.parse import bounds

_UNKNOWN: Final = -1
_ODD: Final = np.uint64(0x9E3779B97F4A7C15)


class BinTable:
    """Gives every bin a number, by its bounds as Envoy prints them in at most sixteen characters.

    Attributes:
        known: lower bound and width of each bin in milliseconds, by its number.
    """

    def __init__(self) -> None:
        self.known: list[tuple[float, float]] = []
        self._numbers: dict[tuple[int, int], int] = {}
        # An open-addressing hash table over arrays. Each bin's key is its text as two 8-byte words; its place is where
        # these hash to, or the next free one.
        self._words: tuple[Words, Words] = (np.zeros(1, np.uint64), np.zeros(1, np.uint64))
        self._places: Numbers = np.full(1, _UNKNOWN, np.int32)

    def __len__(self) -> int:
        return len(self.known)

    def look_up(self, padded: bytes, ends: Positions, lengths: Positions) -> Numbers:
        """Number the bins whose texts end at some positions.

        Args:
            padded: the text, with at least sixteen characters before the first bin.
            ends: where each bin's text ends, shape (bins,).
            lengths: how many characters each has, shape (bins,).

        Raises:
            IrregularError: a text is longer than sixteen characters, or not a pair of bounds.
        """
        if not len(ends):
            return np.zeros(0, np.int32)
        longest = lengths.max()
        if longest > 16:
            raise IrregularError
        words = words_of(padded)
        last = words[ends - 8] & LAST_BYTES[np.minimum(lengths, 8)]
        first = np.zeros_like(last)
        if longest > 8:
            first = words[ends - 16] & LAST_BYTES[np.maximum(lengths - 8, 0)]
        numbers = self._find(last, first)
        unknown = numbers == _UNKNOWN
        if unknown.any():
            for pair in set(zip(last[unknown].tolist(), first[unknown].tolist(), strict=True)):
                self._learn(*pair)
            self._rebuild()
            numbers = self._find(last, first)
        return numbers

    def _find(self, last: Words, first: Words) -> Numbers:
        """The number of each bin, or ``_UNKNOWN``, by the two words of its text."""
        places = self._hash(last, first)
        numbers = self._places[places]
        other = np.flatnonzero(((self._words[0][places] != last) | (self._words[1][places] != first)) & (numbers >= 0))
        while len(other):
            at = (places[other] + 1) % len(self._places)
            places[other] = at
            numbers[other] = found = self._places[at]
            same = (self._words[0][at] == last[other]) & (self._words[1][at] == first[other])
            other = other[~same & (found >= 0)]
        return numbers

    def _hash(self, last: Words, first: Words) -> Positions:
        mixed = (last ^ (first * _ODD)) * _ODD
        return ((mixed >> np.uint64(40)) % np.uint64(len(self._places))).astype(np.int64)

    def _learn(self, last: int, first: int) -> None:
        text = (first.to_bytes(8, "little") + last.to_bytes(8, "little")).lstrip(b"\0").decode("latin-1")
        try:
            found = bounds(text, "")
        except SourceError:
            raise IrregularError from None
        if (last, first) not in self._numbers:
            self._numbers[last, first] = len(self.known)
            self.known.append(found)

    def _rebuild(self) -> None:
        last, first = (np.array(column, np.uint64) for column in zip(*self._numbers, strict=True))
        size = 1 << (16 * len(last)).bit_length()  # at most 1/16 full, so that collisions are rare
        self._words = np.zeros(size, np.uint64), np.zeros(size, np.uint64)
        self._places = np.full(size, _UNKNOWN, np.int32)
        for number, place in enumerate(self._hash(last, first).tolist()):
            while self._places[place] != _UNKNOWN:
                place = (place + 1) % size
            self._words[0][place], self._words[1][place], self._places[place] = last[number], first[number], number
