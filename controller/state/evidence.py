"""What every tick changes: a stage's evidence and the last decision, one file for each experiment.

Losing such a file loses evidence, never a step: the stage collects it again. So a file is replaced atomically but not
forced to disk, and one that is damaged or belongs to another stage is ignored.

A file holds the last cumulative values of every Envoy, which may be millions, so it is a numpy archive: JSON for what
is small, keys once for all Envoys, then the counts of the totals and of each Envoy in as few bytes as the largest
needs. A hash before the archive detects damage.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import AwareDatetime
from xxhash import xxh3_64_digest

from abmesh.experiment.errors import StateError
from controller.codec.history import HistoryRecord
from controller.decision.history import History
from controller.evidence.counts import Counts, Keys, Series, narrowest, values_of
from controller.evidence.window import Reading, Window
from controller.records import DecisionRecord, Record, Remark
from controller.state.locks import make_folder, make_subfolder, read_file, replace_file

FOLDER = "evidence"

_DIGEST = 8
"""Bytes of the hash."""

_Key = TypeVar("_Key")


@dataclass(frozen=True, slots=True)
class StageEvidence:
    """What is known of a stage beyond its state.

    Attributes:
        stage: the id of the stage that this belongs to.
        window: what was counted since its evidence began; None before that.
        decision: the last decision of any kind.
        requests: the candidate's answered requests in the window.
        history: of earlier stages, checkpoints and looks.
        remarks: what the last tick found beside its decision.
    """

    stage: str
    window: Window | None = None
    decision: DecisionRecord | None = None
    requests: int = 0
    history: History = field(default_factory=History)
    remarks: tuple[Remark, ...] = ()


class _Reading(Record):
    envoy: str
    at: AwareDatetime
    uptime: float | None
    epoch: int | None = None


class _Window(Record):
    since: AwareDatetime
    seen: tuple[_Reading, ...]
    counters: tuple[tuple[str, int | str, int | str], ...]
    bins: tuple[tuple[str, str, int | str, float, float], ...]


class _StageEvidence(Record):
    stage: str
    requests: int
    decision: DecisionRecord | None
    window: _Window | None
    memory: HistoryRecord = HistoryRecord()
    remarks: tuple[Remark, ...] = ()


class EvidenceStore:
    """The files of one state folder. Only the leader writes them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / FOLDER

    def read(self, experiment: str) -> StageEvidence | None:
        """What was kept of an experiment; None if there is nothing, or nothing that makes sense."""
        try:
            return load_evidence(read_file(self._path(experiment)))
        except (OSError, StateError):
            return None

    def names(self) -> list[str]:
        """The experiments of which anything was kept."""
        return [path.stem for path in sorted(self._folder.glob("*.bin"))]

    def write(self, experiment: str, live: StageEvidence) -> None:
        """Keep what is known of an experiment.

        Raises:
            StateError: it cannot be written.
        """
        content = dump_evidence(live)
        make_folder(self._folder.parent)
        make_subfolder(self._folder)
        replace_file(self._path(experiment), content, durable=False)

    def _path(self, experiment: str) -> Path:
        return self._folder / f"{experiment}.bin"


def dump_evidence(live: StageEvidence) -> bytes:
    """Evidence as it is kept."""
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **_dump(live))
    archive = file.getvalue()
    return xxh3_64_digest(archive) + archive


def load_evidence(content: bytes) -> StageEvidence | None:
    """The reverse of :func:`dump_evidence`; None if it makes no sense."""
    view = memoryview(content)
    try:
        if view[:_DIGEST] != xxh3_64_digest(view[_DIGEST:]):
            return None
        with np.load(io.BytesIO(view[_DIGEST:]), allow_pickle=False) as archive:
            return _load(archive)
    except (OSError, ValueError, KeyError, StateError):  # Another version of abmesh may have kept something else.
        return None


def _dump(live: StageEvidence) -> dict[str, NDArray[Any]]:
    window: _Window | None = None
    arrays: dict[str, NDArray[Any]] = {}
    if live.window is not None:
        seen = live.window.seen
        every = [live.window.totals, *(item.counts for item in seen.values())]
        counters, columns = _join([counts.counters for counts in every])
        arrays |= {f"counters_{name}": column for name, column in columns.items()}
        bins, columns = _join([counts.histograms for counts in every])
        arrays |= {f"bins_{name}": column for name, column in columns.items()}
        readings = [
            _Reading.model_construct(envoy=envoy, at=item.at, uptime=item.uptime, epoch=item.epoch)
            for envoy, item in seen.items()
        ]
        window = _Window.model_construct(since=live.window.since, seen=tuple(readings), counters=counters, bins=bins)
    kept = _StageEvidence.model_construct(
        stage=live.stage,
        requests=live.requests,
        decision=live.decision,
        window=window,
        memory=HistoryRecord.of(live.history),
        remarks=live.remarks,
    )
    return {"live": np.frombuffer(kept.model_dump_json().encode(), np.uint8), **arrays}


def _join(parts: Sequence[Series[_Key]]) -> tuple[tuple[_Key, ...], dict[str, NDArray[Any]]]:
    """Keys, and columns with the counts of all parts under them."""
    keys = max((part.keys for part in parts), key=len)
    aligned = [part.under(keys) for part in parts]
    values = np.concatenate([part.values for part in aligned])
    if values.dtype == object:
        values = np.array([str(value) for value in values.tolist()], dtype=np.bytes_)
    else:
        values = _narrow(values)
    columns = {
        "lengths": np.array([len(part) for part in aligned], np.int64),
        "numbers": _narrow(np.concatenate([part.numbers for part in aligned])),
        "values": values,
    }
    return tuple(keys.known), columns


def _narrow(numbers: NDArray[Any]) -> NDArray[Any]:
    """Numbers that are not negative, in as few bytes as the largest needs."""
    return numbers.astype(np.min_scalar_type(int(numbers.max()))) if len(numbers) else numbers.astype(np.uint8)


def _load(archive: Mapping[str, NDArray[Any]]) -> StageEvidence:
    kept = _StageEvidence.model_validate_json(archive["live"].tobytes())
    window = None
    if kept.window is not None:
        counters = _split(kept.window.counters, archive, "counters", 1 + len(kept.window.seen))
        bins = _split(kept.window.bins, archive, "bins", 1 + len(kept.window.seen))
        totals, *every = map(Counts.of, counters, bins)
        seen = {
            item.envoy: Reading(item.at, item.uptime, counts, item.epoch)
            for item, counts in zip(kept.window.seen, every, strict=True)
        }
        window = Window(kept.window.since, totals, seen)
    return StageEvidence(kept.stage, window, kept.decision, kept.requests, kept.memory.history(), kept.remarks)


def _split(known: Sequence[_Key], archive: Mapping[str, NDArray[Any]], kind: str, parts: int) -> list[Series[_Key]]:
    """The reverse of :func:`_join`.

    Raises:
        ValueError: the columns do not fit together.
    """
    keys: Keys[_Key] = Keys()
    for key in known:
        keys.number(key)
    lengths, numbers, values = (archive[f"{kind}_{column}"] for column in ("lengths", "numbers", "values"))
    fits = len(lengths) == parts and len(numbers) == len(values) == lengths.sum() and (lengths >= 0).all()
    if not fits or len(keys) != len(known) or (len(numbers) and numbers.max() >= len(keys)):
        raise ValueError("columns of different lengths")
    counts = values_of([int(value) for value in values.tolist()]) if values.dtype.kind == "S" else values
    ends = np.cumsum(lengths)[:-1].tolist()
    spans = zip(np.split(numbers.astype(np.int32), ends), np.split(counts, ends), strict=True)
    return [Series(keys, part, narrowest(column)) for part, column in spans]
