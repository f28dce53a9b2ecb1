"""What ``abmesh render envoy`` does with ``--into``, ``--only`` and ``--remove``."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import typer

from abmesh.experiment.errors import SettingsError, StartError
from abmesh.experiment.model import Document
from abmesh.mesh.merge.find import Names
from abmesh.mesh.merge.pieces import Part, Unassigned
from abmesh.mesh.options import RenderOptions


@dataclass(frozen=True, slots=True)
class IntoOptions:
    """The flags of merging.

    Attributes:
        into: the file to merge into; None prints the parts alone.
        names: the listener, virtual host and route.
        only: which parts; all if there are none.
        before: the filter that ours come before.
        unassigned: where requests without an assignment go; empty: as is usual for the route.
        remove: whether to take abmesh out instead.
        output: where the result goes; None for standard output.
        in_place: whether it replaces the file.
    """

    into: Path | None
    listener: str = ""
    virtual_host: str = ""
    route: str = ""
    only: tuple[str, ...] = ()
    before: str = ""
    unassigned: str = ""
    remove: bool = False
    output: Path | None = None
    in_place: bool = False

    @property
    def given(self) -> bool:
        """Whether anything but a whole bootstrap is wanted."""
        return self.into is not None or bool(self.only) or self.remove

    def check(self) -> None:
        """Refuse flags that do not fit together.

        Raises:
            SettingsError: with what is allowed.
        """
        if self.into is None:
            named: dict[str, object] = {
                "--listener": self.listener,
                "--virtual-host": self.virtual_host,
                "--route": self.route,
            }
            named |= {"--before": self.before, "--unassigned": self.unassigned, "--remove": self.remove}
            named |= {"--in-place": self.in_place, "--output": self.output}
            wrong = [flag for flag, value in named.items() if value]
            if wrong:
                raise SettingsError(f"{wrong[0]} is only for --into FILE; add that, or leave it out")
        if self.in_place and self.output is not None:
            raise SettingsError("--in-place and --output: found both; allowed: one of them, or neither to print")
        if self.remove and self.only:
            raise SettingsError("--remove and --only: found both; allowed: --remove alone, which takes out everything")
        for name in self.only:
            if name not in list(Part):
                raise SettingsError(f"--only: found {name!r}; allowed: {', '.join(Part)}")
        if self.unassigned and self.unassigned not in list(Unassigned):
            raise SettingsError(f"--unassigned: found {self.unassigned!r}; allowed: {', '.join(Unassigned)}")


def render_into(document: Document | None, options: RenderOptions, flags: IntoOptions) -> None:
    """Merge, remove, or print the parts alone.

    Args:
        document: the experiments; None to remove.
        options: of rendering.
        flags: of merging; checked.

    Raises:
        RenderError: it cannot be merged, with the reason.
        StartError: a file cannot be read or written.
    """
    from abmesh.mesh.merge.into import Wanted, merge, remove
    from abmesh.mesh.merge.rendered import pieces, takeover

    if flags.into is None:
        assert document is not None
        typer.echo(_alone(document, options, [Part(name) for name in flags.only]), nl=False)
        return
    content = _read(flags.into)
    names = Names(str(flags.into), flags.listener, flags.virtual_host, flags.route)
    if document is None:
        _write(flags, content, remove(content, names))
        return
    merged = merge(
        content,
        names,
        Wanted(
            document,
            pieces(document, options),
            takeover(document),
            frozenset(map(Part, flags.only)) or frozenset(Part),
            flags.before,
            Unassigned(flags.unassigned) if flags.unassigned else None,
        ),
    )
    for note in merged.notes:
        typer.echo(f"abmesh: note: {note}", err=True)
    _write(flags, content, merged.text)


def _alone(document: Document, options: RenderOptions, parts: Collection[Part]) -> str:
    """The parts, as they would stand in a configuration, to be merged by hand."""
    from abmesh.mesh.bootstrap import render_bootstrap
    from abmesh.mesh.merge.rendered import pieces
    from abmesh.mesh.yaml_text import to_yaml

    found = pieces(document, options)
    made: dict[str, object] = {}
    if Part.FILTERS in parts:
        made["common_http_protocol_options"] = {"max_headers_count": found.max_headers}
        made["local_reply_config"] = {"mappers": found.reply_mappers}
        made["early_header_mutation_extensions"] = found.early_header_mutations
        made["http_filters"] = found.http_filters
    if Part.ACCESS_LOGS in parts:
        made["access_log"] = found.access_log
        made["stats_config"] = {"histogram_bucket_settings": found.histogram_buckets}
    if Part.CLUSTERS in parts:
        made["clusters"] = found.clusters
        made["listeners"] = found.listeners
    if Part.ROUTES in parts:
        whole = render_bootstrap(document, options)["static_resources"]["listeners"][0]
        host = whole["filter_chains"][0]["filters"][0]["typed_config"]["route_config"]["virtual_hosts"][0]
        # Without the last one, which would take everybody else's requests.
        made["routes"] = host["routes"][:-1]
        made["node"] = {"metadata": {"abmesh": dict(found.node_metadata)}}
    return to_yaml(made)


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode()
    except OSError as error:
        raise StartError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError:
        raise StartError(f"cannot read {path}: it is not UTF-8 text") from None


def _write(flags: IntoOptions, content: str, text: str) -> None:
    target = flags.into if flags.in_place else flags.output
    if target is None:
        typer.echo(text, nl=False)
        return
    if flags.in_place and text == content:
        typer.echo(f"abmesh: {target} is already as wanted", err=True)
        return
    from abmesh.atomic import replace_file

    try:
        replace_file(target.resolve(), text.encode())
    except OSError as error:
        raise StartError(f"cannot write {target}: {error.strerror or error}") from error
    typer.echo(f"abmesh: wrote {target}", err=True)
