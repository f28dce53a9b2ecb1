"""Who is closed when connections are too many, or make the server hold too much."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import pytest

from ext_proc.service import Service
from ext_proc.telemetry import REFUSALS, Counts
from ext_proc.transport.health import Health
from ext_proc.transport.shared import Limits, Shared


@dataclass(eq=False)
class Peer:
    """An open connection."""

    shared: Shared
    held: int = 0
    silent_since: float | None = None
    open_streams: int = 0
    checks_only: bool = False
    aborted: bool = False

    def __post_init__(self) -> None:
        self.shared.connections.add(self)

    def hold(self, more: int) -> None:
        self.held += more
        self.shared.hold(more)

    def check_limits(self, now: float) -> None:
        raise AssertionError

    def close(self) -> None:
        raise AssertionError

    def abort(self) -> None:
        self.aborted = True
        self.shared.held -= self.held
        self.held = 0


def shared(**limits: int) -> Shared:
    return Shared(Service(Counts()), Health(), Limits(**limits))


def test_whoever_holds_most_is_closed_until_an_eighth_of_the_budget_is_free() -> None:
    state = shared(held=800)
    envoy, small, large, largest = (Peer(state) for _ in range(4))
    for peer, held in ((envoy, 10), (small, 150), (large, 300), (largest, 340)):
        peer.hold(held)
    assert not any(peer.aborted for peer in (envoy, small, large, largest))
    envoy.hold(1)
    assert [peer.aborted for peer in (envoy, small, large, largest)] == [False, False, False, True]
    assert state.service.counts.refused["server_budget"] == 1
    assert state.held == 461
    state.relieve()
    assert not large.aborted


def test_the_silent_make_room_those_silent_for_longest_first_and_the_busy_never() -> None:
    state = shared()
    busy = Peer(state, silent_since=None)
    stranger, old, recent, heard = (Peer(state, silent_since=since) for since in (-3600.0, 1.0, 5.0, 10.0))
    state.make_room(5, now=10.0)
    assert not any(peer.aborted for peer in (busy, stranger, old, recent, heard))
    state.make_room(3, now=10.0)
    assert [peer.aborted for peer in (busy, stranger, old, recent, heard)] == [False, True, True, False, False]
    assert state.service.counts.refused["connections"] == 2
    state.make_room(0, now=10.0)
    assert [peer.aborted for peer in (busy, recent, heard)] == [False, True, False]


def test_every_refusal_is_counted_and_one_of_a_cause_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    state = shared()
    with caplog.at_level(logging.WARNING):
        for cause in REFUSALS:
            for _ in range(3):
                state.refuse(cause)
    assert state.service.counts.refused == dict.fromkeys(REFUSALS, 3)
    assert len(caplog.records) == len(REFUSALS)
