"""Adjusted p-values: published numbers and laws."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abmesh.inference.multiple import benjamini_hochberg, holm

PUBLISHED = (0.005, 0.06, 0.007, 0.04, 0.01, 0.03)
VALUES = st.lists(st.floats(0, 1), max_size=12)


def test_holm_as_published() -> None:
    assert holm(PUBLISHED) == pytest.approx((0.03, 0.09, 0.035, 0.09, 0.04, 0.09))


def test_benjamini_hochberg_as_published() -> None:
    assert benjamini_hochberg(PUBLISHED) == pytest.approx((0.02, 0.06, 0.02, 0.048, 0.02, 0.045))


@given(VALUES)
def test_nothing_becomes_more_significant_and_holm_is_the_stricter(p: list[float]) -> None:
    for raw, false_discovery, familywise in zip(p, benjamini_hochberg(p), holm(p), strict=True):
        assert raw <= false_discovery + 1e-12
        assert false_discovery <= familywise + 1e-12
        assert familywise <= 1


@given(VALUES, st.randoms())
def test_the_order_of_the_questions_does_not_matter(p: list[float], random: Random) -> None:
    order = list(range(len(p)))
    random.shuffle(order)
    for adjust in (holm, benjamini_hochberg):
        adjusted = adjust(p)
        assert adjust([p[i] for i in order]) == pytest.approx([adjusted[i] for i in order])


@pytest.mark.parametrize("bad", [-0.1, 1.1, float("nan")])
def test_what_is_no_probability_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        holm([0.5, bad])
