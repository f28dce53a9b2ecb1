"""``abmesh status``: each rollout's stage, weights, state and last decision."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

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
from abmesh.cli.places import Target, place_of
from abmesh.experiment.quantities import format_duration, format_percent

if TYPE_CHECKING:
    from controller.records import Remark
    from controller.rollout.place import Place
    from controller.rollout.status import ExperimentStatus

_REFRESH_SECONDS = 1.0


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(status)


def status(
    config: ConfigOption = CONFIG,
    state: StateOption = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Refresh every second until Ctrl-C.")] = False,
    as_json: JsonOption = False,
    kubernetes: KubernetesOption = False,
    namespace: NamespaceOption = None,
    context: ContextOption = None,
    abmesh_namespace: OwnNamespaceOption = OWN_NAMESPACE,
    everywhere: Annotated[
        bool, typer.Option("--all-namespaces", "-A", help="The Experiments of all namespaces; with --kubernetes.")
    ] = False,
) -> None:
    """Show each rollout's stage, weights, state and last decision."""
    from abmesh.cli.json_records import status_json
    from abmesh.kube.errors import Unreachable
    from controller.rollout.status import status_of

    target = Target(kubernetes, namespace, context, abmesh_namespace)
    place = place_of(config, state, target, everywhere=everywhere)
    if as_json:
        while True:
            for found in status_of(place):
                print_json(status_json(found))
            if not watch:
                return
            time.sleep(_REFRESH_SECONDS)
    console = Console()
    if not watch:
        console.print(_picture(place))
        return
    picture = _picture(place)
    with Live(picture, console=console, auto_refresh=False) as live:
        while True:
            time.sleep(_REFRESH_SECONDS)
            try:
                picture = shown = _picture(place)
            except Unreachable as error:  # the last picture stays until the API server answers again
                shown = Group(picture, Text(str(error), "bold red"))
            live.update(shown, refresh=True)


def _picture(place: Place) -> Group:
    from controller.rollout.status import status_of

    found = status_of(place)
    table = Table()
    for name in ("experiment", "state", "step", "for", "weights", "requests"):
        table.add_column(name, overflow="fold", no_wrap=name == "state")
    for item in found:
        table.add_row(*_row(item))
    notes = [Text(f"{item.experiment}: {_why(item)}") for item in found if item.decision]
    notes += [_remark(item.experiment, remark) for item in found for remark in item.remarks]
    notes += [Text(f"{item.experiment}: {note}") for item in found for note in item.notes]
    generation = next((item.generation for item in found if item.generation), None)
    notes.append(Text(f"controller: {_leader(found)}; generation: {generation or 'none, the document is refused'}"))
    notes += [Text(text, "bold red") for text in _to_render(found)]
    unknown = dict.fromkeys(envoy for item in found for envoy in item.unknown)
    if unknown:
        notes.append(Text(f"not known whether these Envoys must be rendered again: {', '.join(unknown)}"))
    errors = {text for item in found for text in (item.config_error, item.state_error, item.leader_error) if text}
    errors |= {f"not seen: {text}" for item in found for text in item.unseen}
    errors |= {f"{item.experiment}: {item.failure}" for item in found if item.failure and not item.state_error}
    return Group(table, *notes, *(Text(text, "bold red") for text in sorted(errors)))


def _remark(experiment: str, remark: Remark) -> Text:
    """What was found beside the decision; a broken control cannot be overlooked."""
    if remark.about == "control":
        return Text(f"{experiment}: the control is broken: {remark.text}", "bold red")
    if remark.about == "check":  # its sentence says what it is
        age = "" if remark.at is None else f"; asked {format_duration(_since(remark.at))} ago"
        return Text(f"{experiment}: {remark.text}{age}")
    what = "watched only:" if remark.about == "dry_run" else "secondary goal"
    return Text(f"{experiment}: {what} {remark.name}: {remark.verdict}: {remark.text}")


def _since(moment: datetime) -> timedelta:
    return timedelta(seconds=max(0, int((datetime.now(UTC) - moment).total_seconds())))


def _leader(found: list[ExperimentStatus]) -> str:
    item = next((item for item in found if item.leader), None)
    if item is None or item.leader_seconds is None:
        return "not known" if any(item.unseen for item in found) else "none running"
    return f"{item.leader}, last tick {format_duration(timedelta(seconds=int(item.leader_seconds)))} ago"


def _to_render(found: Sequence[ExperimentStatus]) -> list[str]:
    """Which Envoys must be rendered again, and for which parts of the document."""
    envoys: dict[str, dict[str, None]] = {}
    for item in found:
        for envoy, names in item.stale.items():
            envoys.setdefault(envoy, {}).update(dict.fromkeys(names))
    return [
        f"{envoy} must be rendered again, because the document has changed: {', '.join(sorted(names))}"
        for envoy, names in envoys.items()
    ]


def _row(item: ExperimentStatus) -> list[str]:
    from controller.wording.values import show_coarse

    return [
        item.experiment,
        item.phase + ("\n(a change\nis pending)" if item.pending else ""),
        f"{item.step} of {item.steps}" if item.candidate else "no rollout",
        "" if item.stage_age is None else show_coarse(item.stage_age),
        "\n".join(f"{name} {format_percent(points)}" for name, points in item.weights.items()),
        f"{item.requests}\n(at least {item.min_requests})" if item.candidate else "",
    ]


def _why(item: ExperimentStatus) -> str:
    assert item.decision is not None
    return f"{item.decision.kind.value} at {item.decision.at:%H:%M:%S} UTC: {item.decision.reason}"
