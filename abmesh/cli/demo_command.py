"""``abmesh demo``: a whole rollout through a real Envoy, on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(demo)


def demo(
    scenario: Annotated[str, typer.Argument(help="Scenario: good, errors, slow or finetune.")] = "good",
    keep: Annotated[bool, typer.Option("--keep", help="Keep everything running at the end, until Ctrl-C.")] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the outcome to a file.", show_default=False)
    ] = None,
    lane: Annotated[
        str, typer.Option(help="Who assigns users: ext_proc (our server) or native (Envoy itself).")
    ] = "ext_proc",
) -> None:
    """Watch a rollout on this machine, with a real Envoy, two models and 2,000 users.

    Exits with 0 only if the scenario ended as expected.
    """
    import asyncio

    from rich.console import Console

    from abmesh.cli.demo.run import run_demo
    from abmesh.cli.demo.scenarios import LANES, SCENARIOS

    if scenario not in SCENARIOS:
        raise typer.BadParameter(f"no scenario {scenario!r}; allowed: {', '.join(SCENARIOS)}")
    if lane not in LANES:
        raise typer.BadParameter(f"no lane {lane!r}; allowed: {', '.join(LANES)}")
    chosen = SCENARIOS[scenario].in_lane(lane)
    try:
        outcome = asyncio.run(run_demo(chosen, Console(), keep=keep, json_file=json_file))
    except (asyncio.CancelledError, KeyboardInterrupt):
        typer.echo("interrupted; everything is stopped", err=True)
        raise typer.Exit(130) from None
    if not outcome.passed:
        raise typer.Exit(1)
