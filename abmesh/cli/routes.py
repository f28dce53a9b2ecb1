"""``abmesh routes``: keeps an Envoy's routes file up to date where no controller does."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from abmesh.cli.options import CONFIG, ConfigOption

if TYPE_CHECKING:
    from controller.routes.envoy_file import EnvoyRoutes


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(routes)


def routes(
    file: Annotated[
        Path | None,
        typer.Argument(
            help="The file given to `abmesh render envoy --routes-file`; .json or .yaml.",
            show_default="print to standard output",
        ),
    ] = None,
    config: ConfigOption = CONFIG,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Keep the file up to date with the document, until Ctrl-C.")
    ] = False,
) -> None:
    """Print Envoy's routes, or write them to a file that Envoy watches."""
    from abmesh.experiment.store import format_generation
    from controller.routes.envoy_file import EnvoyRoutes, document_store, routes_text

    if file is None:
        if follow:
            raise typer.BadParameter("--follow needs a file to keep up to date")
        typer.echo(routes_text(document_store(config).read()), nl=False)
        return
    routes_file = EnvoyRoutes(file.absolute())
    if follow:
        _follow(config, routes_file)
        return
    snapshot = document_store(config).read()
    done = "written" if routes_file.publish(snapshot).written else "already up to date"
    typer.echo(f"{file}: {done}, generation {format_generation(snapshot.generation)}")


def _follow(config: Path, routes_file: EnvoyRoutes) -> None:
    from controller.routes.envoy_file import document_store
    from controller.routes.publisher import WATCH_SECONDS, Publisher

    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")

    async def run() -> None:
        store = document_store(config)
        following = asyncio.create_task(Publisher(lambda: store.watch(WATCH_SECONDS), routes_file).run())
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, following.cancel)
        with contextlib.suppress(asyncio.CancelledError):
            await following

    asyncio.run(run())
