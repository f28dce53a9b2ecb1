"""When evidence begins, where a source's samples are older than the question."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

from controller.evidence.counts import Counts
from controller.evidence.parse import Sample
from controller.records import ExperimentState, Phase, adopt
from controller.rollout.collect import EVERYWHERE, Collector
from controller.rollout.serving import Served
from controller.sources.base import Observation
from controller.state.evidence import EvidenceStore, StageEvidence
from tests.controller.support import ENVOY, NAME, START, experiment

SETTLE = timedelta(seconds=5)
STARTED = START - timedelta(days=1)


class Rollout:
    """A stage that began at ``START``, and scrapes of one Envoy."""

    def __init__(self, folder: Path) -> None:
        self.gathering = Collector(EvidenceStore(folder), SETTLE)
        self.state: ExperimentState = adopt(experiment(), Phase.PROGRESSING, "stage", START)

    def observe(self, at: float, scraped: float, requests: int, served: Served = EVERYWHERE) -> StageEvidence:
        moment = _at(at)
        sample = Sample({NAME: Counts({("model-b", 0, 200): requests})}, (_at(scraped) - STARTED).total_seconds())
        observations = [Observation(ENVOY, sample, age=moment - _at(scraped))]
        live = self.gathering.collect(self.state, NAME, observations, moment, served=served)
        self.gathering.keep(NAME, self.state, live)
        return live


def _at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def _counted(live: StageEvidence) -> int:
    assert live.window is not None
    return sum(live.window.totals.requests.values())


def test_evidence_begins_with_a_sample_from_after_the_settle_time(tmp_path: Path) -> None:
    rollout = Rollout(tmp_path)
    assert rollout.observe(at=6, scraped=-8, requests=100).window is None, "before the weights were set"
    assert rollout.observe(at=11, scraped=4, requests=110).window is None, "before they had settled"
    assert _counted(rollout.observe(at=16, scraped=5, requests=120)) == 0
    assert _counted(rollout.observe(at=21, scraped=20, requests=123)) == 3


def test_evidence_waits_for_everybody_and_begins_with_a_sample_from_after_that(tmp_path: Path) -> None:
    rollout = Rollout(tmp_path)
    late = Served("the server pod a does not answer")
    assert rollout.observe(at=21, scraped=20, requests=100, served=late).window is None
    since = Served(since=_at(23))
    assert rollout.observe(at=26, scraped=22, requests=110, served=since).window is None, "some were served otherwise"
    assert _counted(rollout.observe(at=31, scraped=24, requests=120, served=since)) == 0
    assert _counted(rollout.observe(at=36, scraped=35, requests=127, served=late)) == 7, "once begun, it goes on"


def test_who_serves_it_early_does_not_shorten_the_settle_time(tmp_path: Path) -> None:
    rollout = Rollout(tmp_path)
    assert rollout.observe(at=4, scraped=4, requests=100, served=Served(since=_at(1))).window is None


def test_the_same_scrape_seen_twice_counts_once_and_is_no_restart(tmp_path: Path) -> None:
    rollout = Rollout(tmp_path)
    rollout.observe(at=20, scraped=19, requests=100)
    for at in (25, 30, 45):
        assert _counted(rollout.observe(at=at, scraped=20, requests=103)) == 3
    assert _counted(rollout.observe(at=50, scraped=48, requests=107)) == 7
