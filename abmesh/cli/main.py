"""The ``abmesh`` command: registers the commands and turns errors into one clear line.

Exit codes: 0 for success, 1 for a refusal or failure, 2 for wrong usage. Commands import what they need inside their
functions, so that ``abmesh --help`` and shell completion stay fast.
"""

from __future__ import annotations

import contextlib
import os
import sys
from importlib.metadata import version
from typing import Annotated

import typer

from abmesh.cli import (
    analyze,
    assign,
    demo_command,
    document,
    explain,
    kubernetes_objects,
    plan,
    render,
    replay,
    rollout,
    routes,
    servers,
    simulate,
    status,
    uninstall,
)
from abmesh.experiment.errors import AbmeshError, SettingsError
from abmesh.experiment.names import ENV_KUBERNETES

app = typer.Typer(
    name="abmesh",
    help="A/B testing and progressive delivery of model versions, inside Envoy.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",  # rich's own would drop words in brackets, and keeps line breaks of paragraphs
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from ext_proc.transport.versions import libraries

        typer.echo(f"abmesh {version('abmesh')}")
        for transport, told in libraries().items():
            typer.echo(f"transport {transport}: {told}")
        raise typer.Exit


@app.callback()
def _options(
    _version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """A/B testing and progressive delivery of model versions, inside Envoy."""


_PANELS = {
    "Run": (demo_command, servers, uninstall),
    "The experiments document": (document, assign, render, routes, kubernetes_objects),
    "Rollouts": (status, rollout, explain, replay),
    "Experiments": (plan, analyze, simulate),
}
"""The modules of commands, by the heading under which ``abmesh --help`` lists them."""

for panel, modules in _PANELS.items():
    for module in modules:
        module.register(app)
    for command in app.registered_commands:
        command.rich_help_panel = command.rich_help_panel or panel
    for group in app.registered_groups:
        group.rich_help_panel = group.rich_help_panel or panel

_command = typer.main.get_command(app)  # built once, not at each call: that takes longer than many commands


def run_as_plugin() -> None:
    """Entry point of ``kubectl-abmesh``, which kubectl calls for ``kubectl abmesh``: the same on a cluster."""
    os.environ[ENV_KUBERNETES] = "1"
    run("kubectl abmesh")


def run(name: str | None = None) -> None:
    """Entry point of the console script.

    Args:
        name: what usage messages call it; None for the program's own name.
    """
    try:
        _command(prog_name=name)
    except AbmeshError as error:
        typer.echo(f"abmesh: {error}", err=True)
        sys.exit(2 if isinstance(error, SettingsError) else 1)
    except BrokenPipeError:
        # The reader of our output, such as `head`, has gone.
        _drop_output()
        sys.exit(1)
    except OSError as error:
        # Files and sockets raise errors of our own, so this is our output, for example on a full disk.
        _drop_output()
        with contextlib.suppress(OSError):
            typer.echo(f"abmesh: {error.filename or 'output'}: {error.strerror or error}", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def _drop_output() -> None:
    """Redirect output to nowhere, so that the interpreter's final flush does not fail, too."""
    with contextlib.suppress(OSError, AttributeError):  # AttributeError: it was closed from the start
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
