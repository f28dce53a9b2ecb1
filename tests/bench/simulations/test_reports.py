"""What a report says of a rate holds at any look, or at those that were planned. `make simulations` has more runs."""

from __future__ import annotations

from bench.simulations import reports


def test_a_report_at_any_look_keeps_alpha_and_finds_differences_of_rare_and_of_common_events() -> None:
    found = reports.any_look(300, 31)
    assert [o for o in found if not o.kept] == []


def test_a_report_at_planned_looks_keeps_alpha_on_a_small_canary_whose_own_variance_does_not() -> None:
    found = reports.planned_looks(1_000, 32)
    assert [o for o in found if not o.kept] == []
    assert next(o.rate for o in found if o.rule.startswith("naive") and o.truth == "same") > 0.12
