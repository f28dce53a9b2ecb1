"""Sample-ratio alarms under constant looks: exact on identities, deflated on requests of users who return."""

from __future__ import annotations

from bench.simulations import sample_ratio


def test_new_identities() -> None:
    found = sample_ratio.new_identities(3_000, 21)
    assert [o for o in found if not o.kept] == []
    assert next(o.rate for o in found if o.rule.startswith("naive")) > 0.08


def test_returning_users() -> None:
    found = sample_ratio.returning_users(200, 22)
    assert [o for o in found if not o.kept] == []
    assert min(o.rate for o in found if o.rule.startswith("naive")) > 0.6
