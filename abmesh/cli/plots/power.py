"""Power curves: how often a rollout ends one way, over the size of the true effect.

Called by ``abmesh simulate`` and ``abmesh plan``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from abmesh.cli.plots.canvas import canvas, legend, mark, percent_axis, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from abmesh.analysis.pictures import PowerPicture


def power_curves(pictures: Sequence[PowerPicture], path: Path) -> None:
    """Draw curves with bars of one Monte-Carlo standard error, ``sqrt(p (1 - p) / runs)``, to each side.

    Args:
        pictures: one below the other; at least one.
        path: of the file.

    Raises:
        SettingsError, StartError: the picture cannot be drawn or written; see :mod:`abmesh.cli.plots.canvas`.
    """
    with canvas(path, 4.2 * len(pictures)) as figure:
        for axes, picture in zip(figure.subplots(len(pictures), squeeze=False)[:, 0], pictures, strict=True):
            _draw(axes, picture)


def _draw(axes: Axes, picture: PowerPicture) -> None:
    for index, curve in enumerate(picture.curves):
        look = style(index)
        rates = [count / runs for count, runs in zip(curve.happened, curve.runs, strict=True)]
        errors = [math.sqrt(p * (1 - p) / runs) for p, runs in zip(rates, curve.runs, strict=True)]
        axes.errorbar(
            list(curve.effects),
            rates,
            yerr=errors,
            color=look.grey,
            linestyle=look.line,
            linewidth=1.4,
            marker=look.marker,
            markersize=4.5,
            markerfacecolor="white",
            capsize=3.0,
            label=curve.label,
        )
    mark(axes, picture.rates, across=True)
    mark(axes, picture.effects, across=False, first=len(picture.rates))
    axes.set_ylim(-0.03, 1.03)
    percent_axis(axes, vertical=True)
    if picture.percent:
        percent_axis(axes, vertical=False)
    axes.set_title(picture.title, loc="left")
    axes.set_xlabel(picture.effect)
    axes.set_ylabel("share of simulated rollouts")
    legend(axes)
