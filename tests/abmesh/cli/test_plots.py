"""Pictures: every one is drawn in every format, names its axes, has no colour, and needs matplotlib only when drawn."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from abmesh.analysis.pictures import Bar, Bars, Line, Point, PowerCurve, PowerPicture, ReferenceLine, TimeSeries
from abmesh.analysis.records import Estimate
from abmesh.cli.plots import canvas
from abmesh.cli.plots.bars import draw_bars
from abmesh.cli.plots.canvas import STYLES, check_target
from abmesh.cli.plots.power import power_curves
from abmesh.cli.plots.sequences import draw_series
from abmesh.experiment.errors import SettingsError, StartError
from abmesh.inference.numbers import Interval

STARTS = {".png": b"\x89PNG\r\n", ".svg": b"<?xml", ".pdf": b"%PDF-"}


def narrowing(value: float, width: float, *, dated: bool) -> tuple[Point, ...]:
    first = 1.79e9 if dated else 0.0
    points = [Point(first, Estimate(None, Interval(-math.inf, math.inf)))]
    for step in range(1, 40):
        half = width / math.sqrt(step)
        points.append(Point(first + 3600 * step, Estimate(value, Interval(value - half, value + half))))
    return tuple(points)


REFERENCES = (ReferenceLine(0, "no difference"), ReferenceLine(0.05, "limit"))


def series(*, dated: bool = True) -> TimeSeries:
    lines = (Line("model-b", narrowing(0.01, 0.05, dated=dated)), Line("model-$c$", narrowing(0, 0.05, dated=dated)))
    return TimeSeries("a title", "conversion, difference from model-a", "time (UTC)", dated, lines, percent=True)


def bars() -> Bars:
    wide, narrow = Estimate(0.2, Interval(-1.0, math.inf)), Estimate(0.02, Interval(-0.01, 0.05))
    rows = [Bar("error_rate: b", [("any", wide), ("one", narrow)]), Bar("latency: b", [("any", narrow)])]
    return Bars(
        "a title",
        "lift, as a share of a's value",
        rows,
        references=REFERENCES,
    )


def power() -> PowerPicture:
    effects = [0.0, 0.1, 0.2]
    curves = [
        PowerCurve("rolled back", effects, [1, 50, 100], [100] * 3),
        PowerCurve("held", effects, [9, 5, 0], [10] * 3),
    ]
    return PowerPicture(
        "a title", "true increase of error_rate", curves, [ReferenceLine(0.1, "limit")], [ReferenceLine(0.05, "alpha")]
    )


@pytest.mark.parametrize("ending", STARTS)
def test_every_picture_is_drawn_in_every_format(tmp_path: Path, ending: str) -> None:
    draw_series([series(), series(dated=False)], tmp_path / f"series{ending}")
    draw_bars([bars(), bars()], tmp_path / f"bars{ending}")
    power_curves([power()], tmp_path / f"power{ending}")
    for name in ("series", "bars", "power"):
        content = (tmp_path / f"{name}{ending}").read_bytes()
        assert content.startswith(STARTS[ending])
        assert len(content) > 5000


def test_the_same_numbers_give_the_same_file(tmp_path: Path) -> None:
    for ending in (".svg", ".pdf"):
        draw_bars([bars()], tmp_path / f"one{ending}")
        draw_bars([bars()], tmp_path / f"two{ending}")
        assert (tmp_path / f"one{ending}").read_bytes() == (tmp_path / f"two{ending}").read_bytes()


def texts(path: Path) -> set[str]:
    """The texts of an SVG, which keeps each as a comment before its outlines."""
    return {text.strip() for text in re.findall(r"<!--(.*?)-->", path.read_text(), re.DOTALL)}


def test_axes_series_and_marked_values_are_named(tmp_path: Path) -> None:
    path = tmp_path / "p.svg"
    draw_series([series()], path)
    assert {"conversion, difference from model-a", "time (UTC)", "no difference", "model-b", "model-$c$"} <= texts(path)
    draw_bars([bars()], path)
    assert {"lift, as a share of a's value", "error_rate: b", "any", "one", "no difference", "limit"} <= texts(path)
    power_curves([power()], path)
    assert {"true increase of error_rate", "rolled back", "held", "limit", "alpha"} <= texts(path)


def test_no_picture_has_a_colour(tmp_path: Path) -> None:
    path = tmp_path / "p.svg"
    found: set[str] = set()
    draw_series([series()], path)
    found |= set(re.findall(r"#[0-9a-f]{6}", path.read_text()))
    draw_bars([bars()], path)
    found |= set(re.findall(r"#[0-9a-f]{6}", path.read_text()))
    power_curves([power()], path)
    found |= set(re.findall(r"#[0-9a-f]{6}", path.read_text()))
    assert found
    assert {colour for colour in found if len({colour[1:3], colour[3:5], colour[5:7]}) != 1} == set()
    assert (
        len({(style.line, style.marker) for style in STYLES}) == len({style.hatch for style in STYLES}) == len(STYLES)
    )


def test_nothing_to_draw_is_an_empty_picture(tmp_path: Path) -> None:
    draw_series([], tmp_path / "a.png")
    draw_bars([], tmp_path / "b.png")
    draw_bars([Bars("a title", "lift", [])], tmp_path / "c.png")
    power_curves([PowerPicture("a title", "effect", [])], tmp_path / "d.png")
    assert len(list(tmp_path.iterdir())) == 4


def test_a_format_that_nobody_draws_is_refused(tmp_path: Path) -> None:
    for name in ("picture.gif", "picture"):
        with pytest.raises(SettingsError, match=r"allowed: \.png, \.svg, \.pdf"):
            check_target(tmp_path / name)


def test_a_file_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "p.png").mkdir()
    with pytest.raises(StartError, match=r"p\.png: the picture cannot be written: Is a directory"):
        draw_bars([bars()], tmp_path / "p.png")
    with pytest.raises(StartError, match=r"no-such/p\.png: there is no folder .*no-such; make it first"):
        draw_bars([bars()], tmp_path / "no-such" / "p.png")


def test_a_missing_matplotlib_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canvas, "find_spec", lambda name: None)
    with pytest.raises(StartError, match=r"pip install 'abmesh\[plots\]'"):
        draw_bars([bars()], tmp_path / "p.png")
