"""``analyze``: compare the variants of a rollout, or of a CSV of results."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from abmesh.cli.options import (
    CONFIG,
    OWN_NAMESPACE,
    ConfigOption,
    ContextOption,
    JsonOption,
    KubernetesOption,
    NamespaceOption,
    OwnNamespaceOption,
    StateOption,
    print_json,
)
from abmesh.cli.places import Target, find
from abmesh.experiment.errors import SettingsError

if TYPE_CHECKING:
    from abmesh.analysis.records import AnalysisReport


class _Adjust(StrEnum):
    HOLM = "holm"
    BH = "bh"
    NONE = "none"


class _Style(StrEnum):
    TEXT = "text"
    MARKDOWN = "markdown"


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(analyze)


def analyze(
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="EXPERIMENT|FILE.csv|-",
            help="An experiment that the controller follows, or a CSV of results; - is standard input.",
            show_default=False,
        ),
    ] = None,
    source: Annotated[
        str | None, typer.Option("--from", metavar="FILE|-", help="A CSV, whatever its name looks like.")
    ] = None,
    control: Annotated[
        str | None,
        typer.Option("--control", help="A file's variant to compare with. [the one named control]"),
    ] = None,
    experiment: Annotated[
        str | None, typer.Option("--experiment", help="Take a file's control from this experiment of the document.")
    ] = None,
    variant: Annotated[
        list[str] | None,
        typer.Option("--variant", metavar="COLUMN", help="Column of the variant; several name it together."),
    ] = None,
    unit: Annotated[
        str | None,
        typer.Option("--unit", metavar="COLUMN", help="Column of what was assigned, such as a user."),
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            "--metric",
            metavar="COLUMN",
            help="Column of a metric; may be repeated. What to call the column sum. Of an experiment: the only "
            "metric to show.",
        ),
    ] = None,
    n: Annotated[
        str | None,
        typer.Option("--n", metavar="COLUMN", help="Column of the requests that a row stands for. [one a row]"),
    ] = None,
    by: Annotated[
        str | None,
        typer.Option("--by", metavar="COLUMN", help="Column of the experiment, in a file of many of them."),
    ] = None,
    segment: Annotated[str | None, typer.Option("--segment", metavar="COLUMN", help="Column of segments.")] = None,
    stage: Annotated[
        str | None, typer.Option("--stage", metavar="COLUMN", help="Column of spans of time with the same weights.")
    ] = None,
    covariate: Annotated[
        str | None,
        typer.Option("--covariate", metavar="COLUMN", help="Column of a value from before, to adjust for (CUPED)."),
    ] = None,
    winsorise: Annotated[
        str | None,
        typer.Option("--winsorise", metavar="99%|CAP", help="Cap values at the control's quantile, or at a number."),
    ] = None,
    adjust: Annotated[
        _Adjust | None,
        typer.Option("--adjust", help="Correct p for the number of metrics and variants. [holm; bh with --by]"),
    ] = None,
    weights: Annotated[
        str | None, typer.Option("--weights", help="A file's expected split: a=95,b=5, or even. [no check]")
    ] = None,
    measured_in: Annotated[str, typer.Option("--measured-in", help="What a file's means are in, such as ms.")] = "",
    alpha: Annotated[str | None, typer.Option("--alpha", help="Error probability. [5%, or the document's]")] = None,
    tuned_for: Annotated[
        int | None,
        typer.Option(
            "--tuned-for",
            help="Requests of two variants at which a file's intervals are narrowest. [near the file's size]",
        ),
    ] = None,
    planned: Annotated[
        int | None,
        typer.Option("--planned", help="The candidate's requests at which planned looks at a file end."),
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
    kubernetes: KubernetesOption = False,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
    abmesh_namespace: OwnNamespaceOption = OWN_NAMESPACE,
) -> None:
    """Compare variants: values, differences, lift, p, segments, and a check of the split."""
    if (target is None) == (source is None):
        raise SettingsError("give the name of an experiment or a FILE.csv, or --from FILE")
    # The name of an experiment has neither dots nor slashes, but for NAMESPACE/NAME in a cluster.
    if source is None and target is not None:
        source = target if target == "-" or "." in target or ("/" in target and not kubernetes) else None
    if plot is not None:
        from abmesh.cli.plots.canvas import check_target

        check_target(plot)
    from abmesh.cli import analyze_file

    level, metrics = analyze_file.error_probability(alpha), metric or []
    if source is None:
        only_files = {
            "--control": control, "--experiment": experiment, "--variant": variant, "--unit": unit, "--n": n,
            "--by": by, "--segment": segment, "--stage": stage, "--covariate": covariate, "--winsorise": winsorise,
            "--adjust": adjust, "--weights": weights, "--measured-in": measured_in, "--tuned-for": tuned_for,
            "--planned": planned,
        }  # fmt: skip
        for option, given in only_files.items():
            if given:
                raise SettingsError(f"{option} goes with a file; for an experiment the document sets it")
        if len(metrics) > 1:
            raise SettingsError("--metric of an experiment is the only metric to show; give one")
        assert target is not None
        from abmesh.cli.analyze_live import report_live

        place, name = find(target, config, state, Target(kubernetes, namespace, context, abmesh_namespace))
        report = report_live(name, place, metrics[0] if metrics else None, level, plot)
        _print(report, style, as_json=as_json)
        return
    from abmesh.analysis.mapping import Asked

    file = analyze_file.File(
        source=source,
        asked=Asked(tuple(variant or ()), unit, n, tuple(metrics), segment, stage, by, covariate),
        control=control if experiment is None else analyze_file.control_in(experiment, config, control),
        cap=None if winsorise is None else analyze_file.cap(winsorise),
    )
    correction = None if adjust is None else adjust.value
    question = analyze_file.question(
        metrics, measured_in, file.control, level, tuned_for, weights, planned, looks, correction
    )
    if file.asked.by is not None:
        from abmesh.analysis import many_render

        found = analyze_file.report_many(file, question, plot)
        if as_json:
            print_json(many_render.as_json(found))
        else:
            typer.echo(many_render.as_text(found, style.value))
        return
    _print(analyze_file.report(file, question, plot), style, as_json=as_json)


def _print(report: AnalysisReport, style: _Style, *, as_json: bool) -> None:
    from abmesh.analysis import render

    if as_json:
        print_json(render.as_json(report))
    else:
        typer.echo(render.as_text(report, style.value))
