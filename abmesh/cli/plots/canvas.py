"""What every picture shares: the figure, styles that need no colour, and the file. Called by the modules beside it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from abmesh.experiment.errors import SettingsError, StartError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from abmesh.analysis.pictures import ReferenceLine

FORMATS = ("png", "svg", "pdf")

_WIDTH = 7.5


@dataclass(frozen=True, slots=True)
class Style:
    """What distinguishes one series from the others without colour."""

    line: str | tuple[int, tuple[int, ...]]
    marker: str
    grey: str
    hatch: str


STYLES = (
    Style("-", "o", "0.0", "////"),
    Style("--", "s", "0.35", "...."),
    Style("-.", "^", "0.2", "\\\\\\\\"),
    Style(":", "D", "0.45", "xxxx"),
    Style((0, (6, 1, 1, 1, 1, 1)), "v", "0.1", "++++"),
)
"""In the order in which series take them; the first again after the last."""

MARK_STYLES: tuple[tuple[str, float], ...] = (("-", 0.8), ((":"), 1.2), ("--", 1.0))
"""Line and width of marked values."""


def check_target(path: Path) -> None:
    """Refuse a picture that cannot be drawn, before any work is done for it.

    Raises:
        SettingsError: the name's ending is not that of a format.
        StartError: there is no such folder, or matplotlib is not installed.
    """
    if path.suffix.lower().removeprefix(".") not in FORMATS:
        endings = ", ".join(f".{ending}" for ending in FORMATS)
        found = path.suffix or "no ending"
        raise SettingsError(f"--plot {path}: a name's ending says the format; found {found}; allowed: {endings}")
    if not path.parent.is_dir():
        raise StartError(f"--plot {path}: there is no folder {path.parent}; make it first")
    if find_spec("matplotlib") is None:
        raise StartError("--plot needs matplotlib, which is not installed; run: pip install 'abmesh[plots]'")


@contextmanager
def canvas(path: Path, height: float) -> Iterator[Figure]:
    """A figure that is written to a file when the block ends.

    Args:
        path: of the file; its ending says the format.
        height: in inches.

    Raises:
        SettingsError, StartError: see :func:`check_target`; or the file cannot be written.
    """
    check_target(path)
    import matplotlib as mpl
    from matplotlib.figure import Figure

    kind = path.suffix.lower().removeprefix(".")
    # Without its date a picture of the same numbers is the same file.
    dateless: dict[str, dict[str, Any]] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
    with mpl.rc_context(
        {
            "axes.spines.right": False,
            "axes.spines.top": False,
            "axes.titlesize": 10.0,
            "date.converter": "concise",
            "font.size": 9.0,
            "legend.frameon": False,
            "legend.handlelength": 3.5,
            "svg.hashsalt": "abmesh",
            "text.parse_math": False,  # a name may hold a dollar sign
            "timezone": "UTC",
        }
    ):
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        yield figure
        try:
            figure.savefig(path, format=kind, dpi=150, metadata=dateless.get(kind))
        except OSError as error:
            raise StartError(f"{path}: the picture cannot be written: {error.strerror or error}") from error


def style(index: int) -> Style:
    """The style of the series of a number."""
    return STYLES[index % len(STYLES)]


def mark(axes: Axes, references: Sequence[ReferenceLine], *, across: bool, first: int = 0) -> None:
    """Draw lines at marked values and name them in the legend.

    Args:
        axes: to draw in.
        references: values.
        across: whether the values are on the vertical axis.
        first: which line style to begin with.
    """
    for index, item in enumerate(references, start=first):
        line, width = MARK_STYLES[index % len(MARK_STYLES)]
        draw = axes.axhline if across else axes.axvline
        draw(item.value, color="0.0", linestyle=line, linewidth=width, label=item.label, zorder=1)


def legend(axes: Axes) -> None:
    """Name everything beside the panel, where it hides nothing."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))


def percent_axis(axes: Axes, *, vertical: bool) -> None:
    """Show an axis' shares in percent."""
    from matplotlib.ticker import PercentFormatter

    axis = axes.yaxis if vertical else axes.xaxis
    axis.set_major_formatter(PercentFormatter(xmax=1.0))
