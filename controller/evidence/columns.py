"""Parses Envoys' answers column by column, because one tick may bring two hundred of them. Pure apart from its caches.

:mod:`controller.evidence.parse` defines what an answer means; this gives the same result some ten times as fast:

- Each statistic's name and each bin's bounds are parsed once and then looked up by number. So is each whole list of
  counter names, by its hash, since an Envoy's names rarely change between ticks and most Envoys have the same ones.
  :class:`Parser` keeps these caches up to a limit, then clears them.
- Counts are converted eight digits at a time, thousands in each numpy step.
- An answer with anything unexpected in it (a count of more than sixteen digits, a bound of more than sixteen
  characters, a line of another form) is left to ``parse`` as a whole, which also reports the errors.

Called by :mod:`controller.sources.envoy_admin`.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_128_digest

from controller.evidence.bins import BinTable
from controller.evidence.counts import Counts, Index, Numbers, Series, Values, narrowest
from controller.evidence.digits import PAD, IrregularError, decimals, named_values
from controller.evidence.parse import EPOCH, TOTALS, UPTIME, Sample, counter_key, histogram_key, parse

MOST_NAMES: Final = 250_000
"""Most statistics' names cached: 60 times what ten experiments with two variants and three codes have."""

MOST_CELLS: Final = 16_000_000
"""Most cells of the table of histograms by bins, four bytes each; Envoy has some 90 bins in each decade. Ten
experiments of two variants and twenty segments have some 12,000 histograms."""

MOST_LAYOUTS: Final = 1024
"""Most lists of counter names cached, some 20 KB each for ten experiments."""

_IGNORED: Final = -1
_UPTIME: Final = -2
_EPOCH: Final = -4
_UNKNOWN: Final = -1

_HEADER: Final = b":\n" + TOTALS.encode()
_INTERVALS: Final = b"  intervals="
_SUMMARY: Final = b"  summary="

_NONE: Final[tuple[Numbers, Values]] = (np.zeros(0, np.int32), np.zeros(0, np.int64))


@dataclass(frozen=True, slots=True)
class _Layout:
    """What an answer's counter names mean, in their order.

    Attributes:
        uptime: index of Envoy's uptime among the values; -1 if there is none.
        epoch: index of its number of hot restarts; -1 if there is none.
        ignored: how many counters are not evidence.
        order: indexes of those that are, sorted by experiment; shape (evidence,).
        parts: for each experiment, its number, its counters' numbers, and where its part of ``order`` starts and stops.
    """

    uptime: int
    epoch: int
    ignored: int
    order: Numbers
    parts: tuple[tuple[int, Numbers, int, int], ...]


class Parser:
    """Parses answers, and caches the names that it has seen. Not thread-safe."""

    def __init__(self) -> None:
        self._forget()

    def parse(self, text: bytes) -> Sample:
        """Parse an answer of Envoy's admin endpoint, as :func:`controller.evidence.parse.parse` does.

        Raises:
            SourceError: the text is not such an answer. No text raises anything else.
        """
        if len(self._owners) > MOST_NAMES or self._cells.size > MOST_CELLS:
            # Counts still in use hold references to what they need.
            self._forget()
        try:
            return self._parse(text)
        except IrregularError:
            return parse(text)

    def _forget(self) -> None:
        self._experiments: list[str] = []
        self._indexes: list[Index] = []
        self._experiment_numbers: dict[str, int] = {}
        # By name, counters with the colon that follows theirs. Apart, because a histogram may share a counter's name.
        self._counters: dict[bytes, int] = {}
        self._layouts: dict[bytes, _Layout] = {}  # by the hash of all names
        self._histograms: dict[bytes, int] = {}
        self._owners: list[int] = []  # each name's experiment, or _IGNORED, _UPTIME or _EPOCH
        self._numbers: list[int] = []  # each name's number among its experiment's counters, or its row of cells
        self._rows: list[tuple[str, str, int | str]] = []  # each row's variant, histogram, and group or place
        self._bins = BinTable()
        self._cells: NDArray[np.int32] = np.full((0, 0), _UNKNOWN, np.int32)  # a bin's number within its experiment
        self._table: tuple[Numbers, Numbers] = (np.zeros(0, np.int32), np.zeros(0, np.int32))

    def _parse(self, text: bytes) -> Sample:
        lines, histograms, totals = _split(text)
        names, counted = named_values(lines)
        layout = self._layout(names)
        ordered = counted[layout.order]
        counters = {owner: (numbers, narrowest(ordered[start:stop])) for owner, numbers, start, stop in layout.parts}
        rows_owners, rows = self._look_up(histograms, self._histograms)
        bins = _by_experiment(*self._read_bins(rows_owners, rows, totals))
        # An experiment with nothing but empty histograms is present, too.
        present = counters.keys() | bins.keys() | set(rows_owners[rows_owners >= 0].tolist())
        experiments = {
            self._experiments[owner]: Counts.of(
                Series(self._indexes[owner].counters, *counters.get(owner, _NONE)),
                Series(self._indexes[owner].bins, *bins.get(owner, _NONE)),
            )
            for owner in present
        }
        ignored = layout.ignored + int((rows_owners == _IGNORED).sum())
        uptime = None if layout.uptime < 0 else float(counted[layout.uptime])
        return Sample(experiments, uptime, ignored, None if layout.epoch < 0 else int(counted[layout.epoch]))

    def _layout(self, names: NDArray[np.uint8]) -> _Layout:
        """What a list of counter names means; each name is followed by its colon and a space."""
        digest = xxh3_128_digest(names.data)
        layout = self._layouts.get(digest)
        if layout is None:
            owners, numbers = self._look_up(names.tobytes().split(), self._counters)
            uptime, epoch = _place(owners, _UPTIME), _place(owners, _EPOCH)
            order = np.argsort(owners, kind="stable").astype(np.int32)
            order = order[np.searchsorted(owners[order], 0) :]
            parts = []
            starts = np.flatnonzero(np.diff(owners[order], prepend=np.int32(-3))).tolist()
            for start, stop in pairwise([*starts, len(order)]):
                part = numbers[order[start:stop]]
                _check_once(part)
                parts.append((int(owners[order[start]]), part, start, stop))
            ignored = int((owners == _IGNORED).sum())
            layout = _Layout(uptime, epoch, ignored, order, tuple(parts))
            if len(self._layouts) >= MOST_LAYOUTS:
                self._layouts.clear()
            self._layouts[digest] = layout
        return layout

    def _look_up(self, names: list[bytes], known: dict[bytes, int]) -> tuple[Numbers, Numbers]:
        """Each name's owner and number, both of shape (len(names),)."""
        try:
            found = np.fromiter(map(known.__getitem__, names), np.int32, len(names))
        except KeyError:
            for name in names:
                if name not in known:
                    owner, number = self._learn(name, histogram=known is self._histograms)
                    known[name] = len(self._owners)
                    self._owners.append(owner)
                    self._numbers.append(number)
            found = np.fromiter(map(known.__getitem__, names), np.int32, len(names))
        if len(self._table[0]) != len(self._owners):
            self._table = np.array(self._owners, np.int32), np.array(self._numbers, np.int32)
        owners, numbers = self._table
        return owners[found], numbers[found]

    def _learn(self, name: bytes, *, histogram: bool) -> tuple[int, int]:
        """A name's owner and number."""
        text = name.decode("ascii")
        if histogram:
            row = histogram_key(text)
            if row is None:
                return _IGNORED, 0
            self._rows.append(row[1])
            return self._owner(row[0]), len(self._rows) - 1
        if not text.endswith(":") or len(text) == 1:
            raise IrregularError
        if text[:-1] in (UPTIME, EPOCH):
            return _UPTIME if text[:-1] == UPTIME else _EPOCH, 0
        counter = counter_key(text[:-1])
        if counter is None:
            return _IGNORED, 0
        owner = self._owner(counter[0])
        return owner, self._indexes[owner].counters.number(counter[1])

    def _owner(self, experiment: str) -> int:
        owner = self._experiment_numbers.setdefault(experiment, len(self._experiments))
        if owner == len(self._experiments):
            self._experiments.append(experiment)
            self._indexes.append(Index())
        return owner

    def _read_bins(self, owners: Numbers, rows: Numbers, totals: list[bytes]) -> tuple[Numbers, Numbers, Values]:
        """Each bin's owner, number and count, for all bins of some histograms.

        Args:
            owners: each histogram's experiment.
            rows: each histogram's row of cells.
            totals: each histogram's list of bins, as Envoy prints it.
        """
        padded = b", ".join([PAD, *filter(None, totals), b""])
        characters = np.frombuffer(padded, np.uint8)
        colons = np.flatnonzero(characters == ord(":"))
        # Every bin ends with a comma and a space; so does the padding.
        ends = np.flatnonzero(characters == ord(" "))[1:] - 1
        if len(colons) != len(ends):
            raise IrregularError
        starts = np.empty_like(ends)
        starts[:1], starts[1:] = len(PAD) + 2, ends[:-1] + 2
        if not ((characters[ends] == ord(",")) & (starts < colons) & (colons < ends)).all():
            raise IrregularError
        counted = decimals(padded, ends, ends - colons - 1)
        bins = self._bins.look_up(padded, colons, colons - starts)
        # Where each list ends, with the comma and the space that follow it.
        lengths = np.fromiter(map(len, totals), np.int64, len(totals))
        stops = len(PAD) + 2 + np.cumsum(np.where(lengths > 0, lengths + 2, 0))
        sizes = np.diff(np.searchsorted(colons, stops), prepend=0)
        owners = np.repeat(owners, sizes)
        return owners, self._cell_numbers(owners, np.repeat(rows, sizes), bins), counted

    def _cell_numbers(self, owners: Numbers, rows: Numbers, bins: Numbers) -> Numbers:
        """Each bin's number within its experiment, by the row and the bin."""
        height, width = len(self._rows) + 1, len(self._bins) + 1
        if height * width > MOST_CELLS:
            raise IrregularError
        if height > self._cells.shape[0] or width > self._cells.shape[1]:
            grown = np.full((height * 5 // 4, width * 5 // 4), _UNKNOWN, np.int32)
            grown[: self._cells.shape[0], : self._cells.shape[1]] = self._cells
            self._cells = grown
        numbers: Numbers = self._cells[rows, bins]
        for place in np.flatnonzero((numbers == _UNKNOWN) & (owners >= 0)).tolist():
            row, number = int(rows[place]), int(bins[place])
            key = (*self._rows[row], *self._bins.known[number])
            self._cells[row, number] = numbers[place] = self._indexes[owners[place]].bins.number(key)
        return numbers


def _split(text: bytes) -> tuple[bytes, list[bytes], list[bytes]]:
    """Split an answer into the lines of counters and gauges, histograms' names, and their lists of bins."""
    if not text.isascii() or not text.strip():
        raise IrregularError
    # What precedes a histogram's bins ends with its name; what follows them may hold more counters.
    first, *pieces = text.rstrip(b"\n").split(_HEADER)
    before, newline, name = first.rpartition(b"\n") if pieces else (first, b"", b"")
    if newline and not before:
        raise IrregularError  # an empty line
    plain = [before] if before else []
    histograms: list[bytes] = []
    totals: list[bytes] = []
    for number, piece in enumerate(pieces, 1):
        line, *rest = piece.split(b"\n")
        if len(rest) < 2 or not rest[0].startswith(_INTERVALS) or not rest[1].startswith(_SUMMARY):
            raise IrregularError
        if name.startswith(b" "):
            raise IrregularError
        histograms.append(name)
        totals.append(line)
        if number < len(pieces):
            if len(rest) < 3:
                raise IrregularError
            name = rest.pop()
        plain += rest[2:]
    return b"\n".join(plain), histograms, totals


def _by_experiment(owners: Numbers, numbers: Numbers, values: Values) -> dict[int, tuple[Numbers, Values]]:
    """Each experiment's numbers and values, by the experiment's number."""
    if (owners[1:] < owners[:-1]).any():
        order = np.argsort(owners, kind="stable")
        owners, numbers, values = owners[order], numbers[order], values[order]
    starts = np.flatnonzero(np.diff(owners, prepend=np.int32(-3))).tolist()
    found = {}
    for start, stop in pairwise([*starts, len(owners)]):
        owner = int(owners[start])
        if owner >= 0:
            part = numbers[start:stop]
            _check_once(part)
            found[owner] = part, narrowest(values[start:stop])
    return found


def _place(owners: Numbers, owner: int) -> int:
    """Where the only one with this owner is; -1 if there is none."""
    places = np.flatnonzero(owners == owner)
    if len(places) > 1:
        raise IrregularError
    return int(places[0]) if len(places) else -1


def _check_once(numbers: Numbers) -> None:
    if np.bincount(numbers).max() > 1:
        raise IrregularError  # a statistic appears twice
