"""``analyze``: compare the variants of a rollout, or of a CSV of results."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from enum import StrEnum
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from abmesh.cli.options import CONFIG, ConfigOption, JsonOption, StateOption, print_json
from abmesh.experiment.errors import SettingsError, StartError
from abmesh.experiment.quantities import SHARE_FORM, WEIGHT_FORM, parse_share, parse_weight

if TYPE_CHECKING:
    from abmesh.analysis.records import AnalysisReport
    from abmesh.analysis.table import Table
    from abmesh.analysis.table_report import TableQuestion

_LARGEST = 10**12


class _Style(StrEnum):
    TEXT = "text"
    MARKDOWN = "markdown"


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(analyze)


def analyze(
    experiment: Annotated[
        str | None, typer.Argument(help="Name of an experiment that the controller follows.", show_default=False)
    ] = None,
    source: Annotated[
        str | None,
        typer.Option("--from", metavar="FILE|-", help="A CSV of results instead; - is standard input."),
    ] = None,
    control: Annotated[
        str | None, typer.Option("--control", help="With --from: the variant to compare with. [the file's first]")
    ] = None,
    weights: Annotated[
        str | None, typer.Option("--weights", help="With --from: the expected split, such as a=95,b=5.")
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option("--metric", help="With --from: the metric's name; otherwise the only metric to show."),
    ] = None,
    unit: Annotated[str, typer.Option("--unit", help="With --from: unit of a mean, such as ms.")] = "",
    alpha: Annotated[str | None, typer.Option("--alpha", help="Error probability. [5%, or the document's]")] = None,
    tuned_for: Annotated[
        int | None,
        typer.Option("--tuned-for", help="With --from: requests at which intervals of means are narrowest. [10000]"),
    ] = None,
    planned: Annotated[
        int | None,
        typer.Option("--planned", help="With --from: the candidate's requests at which planned looks end."),
    ] = None,
    looks: Annotated[int, typer.Option("--looks", help="With --planned: how many looks are planned.")] = 5,
    style: Annotated[_Style, typer.Option("--format", help="How to print.")] = _Style.TEXT,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", metavar="FILE", help="Draw intervals, over time where it is known: .png, .svg or .pdf."),
    ] = None,
    config: ConfigOption = CONFIG,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare variants: values, differences, lift, p, segments, and a check of the split."""
    from abmesh.analysis.render import as_json as report_json
    from abmesh.analysis.render import as_text

    if (experiment is None) == (source is None):
        raise SettingsError("give either the name of an experiment or --from FILE")
    if plot is not None:
        from abmesh.cli.plots.canvas import check_target

        check_target(plot)
    level = _alpha(alpha)
    if source is None:
        only_files = {
            "--control": control, "--weights": weights, "--unit": unit, "--tuned-for": tuned_for, "--planned": planned
        }  # fmt: skip
        for option, given in only_files.items():
            if given:
                raise SettingsError(f"{option} goes with --from; for an experiment the document sets it")
        assert experiment is not None
        from abmesh.cli.analyze_live import report_live

        report = report_live(experiment, config, state, metric, level, plot)
    else:
        question = _question(metric, unit, control, level, tuned_for, weights, planned, looks)
        report = _file(source, question, plot)
    if as_json:
        print_json(report_json(report))
    else:
        typer.echo(as_text(report, style.value))


def _file(source: str, question: TableQuestion, plot: Path | None) -> AnalysisReport:
    """Analyse a CSV."""
    from abmesh.analysis.table_reader import read_table
    from abmesh.analysis.table_report import report_of

    table = read_table(_lines(source), "standard input" if source == "-" else source)
    report = report_of(table, question)
    if plot is not None:
        _draw(table, report, question, plot)
    return report


def _draw(table: Table, report: AnalysisReport, question: TableQuestion, plot: Path) -> None:
    from abmesh.analysis.series import bars_of, history_of
    from abmesh.cli.plots.bars import draw_bars
    from abmesh.cli.plots.sequences import draw_series

    if len(table.history) > 1:
        draw_series([history_of(table, report, question.tuned_for)], plot)
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


def _question(
    metric: str | None,
    unit: str,
    control: str | None,
    alpha: float | None,
    tuned_for: int | None,
    weights: str | None,
    planned: int | None,
    looks: int,
) -> TableQuestion:
    from abmesh.analysis.table_report import TUNED_FOR, TableQuestion

    if metric is not None and not (metric.isprintable() and 0 < len(metric) <= 63):
        raise SettingsError(f"--metric {metric!r} is not a name; allowed: 1 to 63 printable characters")
    if not unit.isprintable() or len(unit) > 20:
        raise SettingsError(f"--unit {unit!r} is not a unit; allowed: at most 20 printable characters")
    for option, number, lowest in (("--tuned-for", tuned_for, 1), ("--planned", planned, 2)):
        if number is not None and not lowest <= number <= _LARGEST:
            raise SettingsError(f"{option} {number} is out of range; allowed: {lowest} to 10^12")
    if not 1 <= looks <= 50:
        raise SettingsError(f"--looks {looks} is out of range; allowed: 1 to 50")
    return TableQuestion(
        metric=metric or "metric",
        unit=unit,
        control=control,
        alpha=0.05 if alpha is None else alpha,
        tuned_for=TUNED_FOR if tuned_for is None else tuned_for,
        weights=None if weights is None else _weights(weights),
        planned=None if planned is None else (planned, looks),
    )


def _alpha(text: str | None) -> float | None:
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


def _weights(text: str) -> dict[str, int]:
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
