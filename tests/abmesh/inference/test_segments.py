from __future__ import annotations

import math

import numpy as np
import pytest

from abmesh.inference.means import stratified
from abmesh.inference.numbers import Slices
from abmesh.inference.segments import segment_table, simpson

# A million users a day; 1% of them get the treatment on the first day, half of them on the second.
FRIDAY = (990_000.0, 990_000 * 0.0202, 10_000.0, 10_000 * 0.0230)
SATURDAY = (500_000.0, 500_000 * 0.0100, 500_000.0, 500_000 * 0.0120)


def test_a_ramp_over_a_weekend_is_pointed_out_as_a_reversal() -> None:
    # The example of Crook, Frasca, Kohavi and Longbotham, Seven Pitfalls to Avoid (KDD 2009).
    found = simpson([FRIDAY, SATURDAY])
    assert found is not None
    assert found.pooled == pytest.approx(0.0122 - 0.0168, abs=1e-4)
    assert found.stratified == pytest.approx(0.00203, abs=1e-5)
    assert found.against == (0, 1)
    assert found.heard == 2


def test_compared_by_day_the_treatment_wins_both_days() -> None:
    def spread(n: float, y: float) -> Slices:
        return Slices(np.full(50, n / 50), np.full(50, y / 50))

    days = [(spread(n_a, y_a), spread(n_b, y_b)) for n_a, y_a, n_b, y_b in (FRIDAY, SATURDAY)]
    for a, b in days:
        assert stratified([a], [b]).d > 0
    assert stratified([a for a, _ in days], [b for _, b in days]).d == pytest.approx(0.00203, abs=1e-5)
    pooled = stratified(
        [Slices(days[0][0].n + days[1][0].n, days[0][0].y + days[1][0].y)],
        [Slices(days[0][1].n + days[1][1].n, days[0][1].y + days[1][1].y)],
    )
    assert pooled.d < 0


def test_swapping_the_variants_swaps_the_reversal() -> None:
    found = simpson([(n_b, y_b, n_a, y_a) for n_a, y_a, n_b, y_b in (FRIDAY, SATURDAY)])
    assert found is not None
    assert found.pooled > 0 > found.stratified


@pytest.mark.parametrize(
    "parts",
    [
        [],
        [FRIDAY],
        [FRIDAY, FRIDAY],
        [FRIDAY, (99.0, 1.0, 99.0, 40.0)],
        [FRIDAY, (0.0, 0.0, 500_000.0, 6_000.0)],
        # Within one twentieth of the control's rate, opposite signs are chance.
        [(1_000.0, 100.0, 1_000.0, 101.0), (2_000.0, 400.0, 1_900.0, 379.0)],
    ],
)
def test_without_parts_that_disagree_there_is_no_reversal(parts: list[tuple[float, float, float, float]]) -> None:
    assert simpson(parts) is None


def test_segments_are_listed_with_p_values_adjusted_for_their_number() -> None:
    parts = {"de": (1_000.0, 100.0, 1_000.0, 130.0), "fr": (1_000.0, 100.0, 1_000.0, 101.0), "it": (0.0, 0.0, 5.0, 1.0)}
    rows = {row.name: row for row in segment_table(parts, {"de": 2e-4, "fr": 2e-4, "it": math.inf})}
    assert rows["de"].d == pytest.approx(0.03)
    assert rows["de"].p == pytest.approx(0.0339, abs=1e-4)
    assert rows["de"].adjusted == pytest.approx(3 * rows["de"].p)
    assert (rows["it"].d, rows["it"].p, rows["it"].standard_error) == (0, 1, math.inf)
    assert rows["fr"].adjusted <= 1
