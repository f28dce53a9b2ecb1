"""``routes``: the file that an Envoy takes its routes from, where no controller is near to keep it."""

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
        typer.Argument(help="The file, .json or .yaml, as in `abmesh render envoy --routes-file`.", show_default=False),
    ] = None,
    config: ConfigOption = CONFIG,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Keep the file on the newest valid document, until a signal.")
    ] = False,
) -> None:
    """Print Envoy's routes for the document, or write them to a file that an Envoy watches."""
    from abmesh.experiment.store import FileStore, format_generation
    from controller.routes.envoy_file import EnvoyRoutes, routes_text

    if file is None:
        if follow:
            raise typer.BadParameter("--follow needs the file to keep")
        typer.echo(routes_text(FileStore(config).read()), nl=False)
        return
    target = EnvoyRoutes(file.absolute())
    if follow:
        _follow(config, target)
        return
    snapshot = FileStore(config).read()
    done = "written" if target.publish(snapshot).written else "up to date already"
    typer.echo(f"{file}: {done}, generation {format_generation(snapshot.generation)}")


def _follow(config: Path, target: EnvoyRoutes) -> None:
    from abmesh.experiment.store import FileStore
    from controller.routes.publisher import WATCH_SECONDS, Publisher

    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")

    async def run() -> None:
        store = FileStore(config)
        following = asyncio.create_task(Publisher(lambda: store.watch(WATCH_SECONDS), target).run())
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, following.cancel)
        with contextlib.suppress(asyncio.CancelledError):
            await following

    asyncio.run(run())
