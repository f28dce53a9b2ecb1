"""Ratios between contenders, and what they should be. Pure; called by ``python -m bench``.

A ratio is the median of each round's own ratio: whatever else the machine did in a round, it did to both. Aims are
shown, never asserted: a slow machine is no error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Final, Literal

from bench.summary import Sample

Figure = Literal["server_cpu_us", "requests_per_second", "p99_ms"]


@dataclass(frozen=True, slots=True)
class Comparison:
    """A ratio of two contenders' figures.

    Attributes:
        figure: what is compared.
        of: the contender in the numerator.
        to: the contender in the denominator.
        least: the aim, if it is that the ratio is no smaller.
        most: the aim, if it is that the ratio is no larger.
    """

    figure: Figure
    of: str
    to: str
    least: float | None = None
    most: float | None = None

    @property
    def aim(self) -> str:
        """The aim, as people read it; empty where there is none."""
        if self.least is not None:
            return f"≥ {self.least:g}"
        return f"≤ {self.most:g}" if self.most is not None else ""

    def met(self, ratio: float) -> bool | None:
        """Whether a ratio is what was aimed at; None where there is no aim."""
        if self.least is not None:
            return ratio >= self.least
        return ratio <= self.most if self.most is not None else None


COMPARISONS: Final = (
    Comparison("server_cpu_us", "nghttp2_1_worker", "grpcio_1_worker", most=0.125),
    Comparison("server_cpu_us", "nghttp2_1_worker", "go_1_processor", most=1.0),
    Comparison("requests_per_second", "nghttp2_1_worker", "go_1_processor", least=1.0),
    Comparison("requests_per_second", "native_split", "envoy_alone", least=0.95),
    Comparison("requests_per_second", "native_alone", "envoy_alone", least=0.95),
    Comparison("requests_per_second", "native", "envoy_with_statistics"),
    Comparison("requests_per_second", "native", "envoy_alone"),
    Comparison("requests_per_second", "native", "nghttp2_1_worker"),
    Comparison("requests_per_second", "nghttp2_1_worker", "grpcio_1_worker"),
    Comparison("server_cpu_us", "nghttp2_2_workers", "go_2_processors"),
    Comparison("requests_per_second", "nghttp2_2_workers", "go_2_processors"),
    Comparison("requests_per_second", "nghttp2_1_worker_unix", "nghttp2_1_worker"),
    Comparison("requests_per_second", "lua_split", "envoy_alone"),
    Comparison("requests_per_second", "nghttp2_1_worker", "fastapi_shared_client"),
    Comparison("requests_per_second", "nghttp2_1_worker", "fastapi_client_per_request"),
    Comparison("server_cpu_us", "nghttp2_1_worker", "fastapi_shared_client"),
)


def ratios(
    samples: Mapping[str, Sequence[Sample]], comparisons: Sequence[Comparison] = COMPARISONS
) -> list[dict[str, Any]]:
    """One row for each comparison of two contenders that were both measured.

    Args:
        samples: every contender's rounds, in order.
        comparisons: what to compare.
    """
    found = []
    for comparison in comparisons:
        pairs = list(zip(samples.get(comparison.of, ()), samples.get(comparison.to, ()), strict=False))
        rounds = [_figure(mine, comparison.figure) / _figure(its, comparison.figure) for mine, its in pairs]
        if not rounds:
            continue
        ratio = round(median(rounds), 3)
        found.append(
            {
                "figure": comparison.figure,
                "of": comparison.of,
                "to": comparison.to,
                "ratio": ratio,
                "rounds": [round(value, 3) for value in rounds],
                "aim": comparison.aim,
                "met": comparison.met(ratio),
            }
        )
    return found


def _figure(sample: Sample, figure: Figure) -> float:
    value: float | None = getattr(sample, figure)
    assert value is not None, f"{figure} of a contender that has none"
    return value


def missed(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Those rows whose aim was missed."""
    return [row for row in rows if row["met"] is False]
