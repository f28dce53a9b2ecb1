from __future__ import annotations

import pytest

from abmesh.inference.segments import simpson

# A million users a day; 1% of them get the treatment on the first day, half of them on the second.
FRIDAY = (990_000.0, 990_000 * 0.0202, 10_000.0, 10_000 * 0.0230)
SATURDAY = (500_000.0, 500_000 * 0.0100, 500_000.0, 500_000 * 0.0120)


def test_a_ramp_over_a_weekend_is_pointed_out_as_a_reversal() -> None:
    # The example of Crook, Frasca, Kohavi and Longbotham, Seven Pitfalls to Avoid (KDD 2009).
    found = simpson([FRIDAY, SATURDAY])
    assert found is not None
    assert found.pooled == pytest.approx(0.0122 - 0.0168, abs=1e-4)
    assert found.stratified == pytest.approx(0.00203, abs=1e-5)


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
