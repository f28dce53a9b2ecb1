"""A CSV of results: the part of ``abmesh analyze`` that needs no controller."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from abmesh.experiment.errors import SettingsError, StartError
from abmesh.experiment.quantities import SHARE_FORM, WEIGHT_FORM, parse_share, parse_weight

if TYPE_CHECKING:
    from abmesh.analysis.many import ManyReport
    from abmesh.analysis.mapping import Asked
    from abmesh.analysis.records import AnalysisReport
    from abmesh.analysis.rows_treated import Cap
    from abmesh.analysis.table import Table
    from abmesh.analysis.table_question import Adjust, TableQuestion

_LARGEST = 10**12


@dataclass(frozen=True, slots=True)
class File:
    """A file to read.

    Attributes:
        source: its name; ``-`` for standard input.
        asked: which column is what.
        control: a variant; None for the one that is named control.
        cap: of values; None for none.
    """

    source: str
    asked: Asked
    control: str | None
    cap: Cap | None

    @property
    def name(self) -> str:
        """For messages and reports."""
        return "standard input" if self.source == "-" else self.source


def report(file: File, question: TableQuestion, plot: Path | None) -> AnalysisReport:
    """Analyse a file of one experiment."""
    from abmesh.analysis.results import read_results
    from abmesh.analysis.table_report import report_of

    tables = read_results(_lines(file.source), file.name, file.asked, file.control, file.cap)
    found = report_of(tables, question)
    if plot is not None:
        _draw(tables[0], found, question, plot)
    return found


def report_many(file: File, question: TableQuestion, plot: Path | None) -> ManyReport:
    """Analyse a file of many experiments."""
    from abmesh.analysis.many import many_report
    from abmesh.analysis.many_reader import read_many

    if plot is not None or file.cap is not None or question.planned is not None:
        raise SettingsError("--by goes without --plot, --winsorise and --planned")
    return many_report(read_many(_lines(file.source), file.name, file.asked), question)


def _draw(table: Table, report: AnalysisReport, question: TableQuestion, plot: Path) -> None:
    from abmesh.analysis.series import bars_of, history_of
    from abmesh.analysis.table_question import tuned_for
    from abmesh.cli.plots.bars import draw_bars
    from abmesh.cli.plots.sequences import draw_series

    if len(table.history) > 1:
        draw_series([history_of(table, report, tuned_for(table, question.tuned_for))], plot)
    else:
        draw_bars(bars_of(report), plot)


def _lines(source: str) -> Iterator[str]:
    """Lines of a file; a line that is too long is not read to its end."""
    from abmesh.analysis.columns import LONGEST_LINE

    if source == "-" and sys.stdin is None:
        raise StartError("cannot read results from -: standard input is closed")
    try:
        with (
            sys.stdin.buffer if source == "-" else open(source, "rb") as raw,  # noqa: PTH123 - one form for both
            TextIOWrapper(raw, encoding="utf-8", errors="surrogateescape", newline="") as file,
        ):
            while line := file.readline(LONGEST_LINE):
                yield line
    except OSError as error:
        raise StartError(f"cannot read results from {source}: {error.strerror}") from error


def control_in(experiment: str, config: Path, given: str | None) -> str:
    """The control of an experiment in the document.

    Raises:
        SettingsError: another control was given as well.
    """
    from abmesh.experiment.store import FileStore

    if given is not None:
        raise SettingsError("give --control or --experiment, not both")
    return FileStore(config).read().document.experiment(experiment).control.name


def cap(text: str) -> Cap:
    """The cap that ``--winsorise`` gives: a quantile in percent, or a number.

    Raises:
        SettingsError: it is neither.
    """
    from abmesh.analysis.rows_treated import Cap

    try:
        number = float(text.strip().removesuffix("%"))
    except ValueError:
        number = -1.0
    percent = text.strip().endswith("%")
    if not (50 <= number < 100 if percent else 0 < number < 1e15):
        allowed = "a quantile of 50% or more and less than 100%, such as 99%, or a number above 0"
        raise SettingsError(f"--winsorise {text!r} is no cap; allowed: {allowed}")
    return Cap(number / 100 if percent else number, percent)


def question(
    metrics: Sequence[str],
    measured_in: str,
    control: str | None,
    alpha: float | None,
    tuned_for: int | None,
    weights: str | None,
    planned: int | None,
    looks: int,
    adjust: str | None,
) -> TableQuestion:
    """What the options ask of a file.

    Raises:
        SettingsError: one of them has a value that is not allowed.
    """
    from abmesh.analysis.table_question import TableQuestion

    for metric in metrics:
        if not (metric.isprintable() and 0 < len(metric) <= 63):
            raise SettingsError(f"--metric {metric!r} is not a name; allowed: 1 to 63 printable characters")
    if not measured_in.isprintable() or len(measured_in) > 20:
        raise SettingsError(f"--measured-in {measured_in!r} is not a unit; allowed: at most 20 printable characters")
    for option, number, lowest in (("--tuned-for", tuned_for, 1), ("--planned", planned, 2)):
        if number is not None and not lowest <= number <= _LARGEST:
            raise SettingsError(f"{option} {number} is out of range; allowed: {lowest} to 10^12")
    if not 1 <= looks <= 50:
        raise SettingsError(f"--looks {looks} is out of range; allowed: 1 to 50")
    return TableQuestion(
        metric=metrics[0] if len(metrics) == 1 else "metric",
        unit=measured_in,
        control=control,
        alpha=0.05 if alpha is None else alpha,
        tuned_for=tuned_for,
        weights=None if weights is None else _weights(weights),
        planned=None if planned is None else (planned, looks),
        adjust=cast("Adjust | None", adjust),
    )


def error_probability(text: str | None) -> float | None:
    """The number that ``--alpha`` gives.

    Raises:
        SettingsError: it is none.
    """
    if text is None:
        return None
    share = parse_share(text)
    if share is None:
        try:
            share = float(text)
        except ValueError:
            share = None
    if share is None or not 1e-6 <= share <= 0.5:
        raise SettingsError(f"--alpha {text!r} is not an error probability; allowed: {SHARE_FORM}, 0.0001% to 50%")
    return share


def _weights(text: str) -> Mapping[str, int] | Literal["even"]:
    if text.strip() == "even":
        return "even"
    found: dict[str, int] = {}
    for part in text.split(","):
        name, separator, percent = part.strip().rpartition("=")
        points = parse_weight(percent.removesuffix("%"))
        if not separator or points is None:
            raise SettingsError(f"--weights: {part.strip()!r} is not VARIANT=PERCENT; a weight is {WEIGHT_FORM}")
        if name in found:
            raise SettingsError(f"--weights: {name!r} is named twice")
        found[name] = points
    if sum(points > 0 for points in found.values()) < 2:
        raise SettingsError("--weights: a split has at least 2 variants with a weight above 0, such as a=95,b=5")
    return found
