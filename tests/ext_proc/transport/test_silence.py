"""How long a peer may say nothing."""

from __future__ import annotations

import pytest

from ext_proc.transport.shared import Limits
from ext_proc.transport.silence import Silence, Verdict

LIMITS = Limits(handshake=10, idle=60, answer=20)


def checked(silence: Silence, now: float, *, heard: bool = False, greeted: bool = True, stuck: bool = False) -> Verdict:
    return silence.check(now, LIMITS, heard=heard, greeted=greeted, stuck=stuck)


def test_a_silent_peer_is_pinged_once_and_cut_off_if_it_does_not_answer() -> None:
    silence = Silence(0)
    assert [checked(silence, now) for now in (60, 61, 80, 81)] == [
        Verdict.KEEP, Verdict.PING, Verdict.KEEP, Verdict.ABORT,
    ]  # fmt: skip


def test_an_answer_begins_the_silence_anew() -> None:
    silence = Silence(0)
    assert checked(silence, 61) is Verdict.PING
    assert checked(silence, 70, heard=True) is Verdict.KEEP
    assert (checked(silence, 130), checked(silence, 131)) == (Verdict.KEEP, Verdict.PING)


@pytest.mark.parametrize("heard", [True, False])
def test_a_peer_that_never_greets_is_cut_off_whatever_it_says(heard: bool) -> None:
    silence = Silence(0)
    assert checked(silence, 10, heard=heard, greeted=False) is Verdict.KEEP
    assert checked(silence, 10.1, heard=heard, greeted=False) is Verdict.ABORT


def test_a_peer_that_does_not_read_is_cut_off_sooner() -> None:
    silence = Silence(0)
    assert (checked(silence, 20, stuck=True), checked(silence, 20.1, stuck=True)) == (Verdict.KEEP, Verdict.ABORT)


def test_strangers_count_as_silent_for_longest() -> None:
    early, late = Silence(0), Silence(5)
    assert late.since(greeted=False) < early.since(greeted=True) < late.since(greeted=True)
