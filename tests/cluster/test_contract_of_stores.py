"""The contract of the controller's stores, with a real API server: what holds for files and the fake, holds here."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.places import Place
from tests.controller.contract.subjects import ClusterSubject, Subject
from tests.controller.contract.test_crashes import (  # noqa: F401 - run here
    test_a_plan_that_refuses_changes_nothing,
    test_a_state_is_put_only_over_the_one_that_was_seen,
    test_nothing_happens_while_nothing_can_be_written,
)
from tests.controller.contract.test_rollouts import (  # noqa: F401 - run here
    test_a_process_that_starts_in_the_middle_goes_on_where_the_last_one_was,
    test_a_rollout_goes_to_the_end_step_by_step,
    test_edited_weights_are_served_at_once_and_turn_the_rollout_manual,
    test_evidence_of_a_stage_survives_a_restart,
    test_harm_takes_all_users_off_the_candidate,
    test_operators_pause_resume_promote_and_roll_back,
    test_weights_that_were_edited_while_no_controller_ran_turn_it_manual_too,
)
from tests.controller.contract.test_stores import (  # noqa: F401 - run here
    test_evidence_is_kept_until_another_stage_begins,
    test_one_process_leads_until_it_lets_go,
    test_the_journal_knows_what_was_appended,
    test_weights_are_written_only_into_the_document_that_was_looked_at,
)

LONG = {"test_operators_pause_resume_promote_and_roll_back", "test_a_rollout_goes_to_the_end_step_by_step"}
"""Left to the soak: these functions are the contract's own, so that a mark on them would be on every store's."""


@pytest.fixture
def new_subject(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Subject]]:
    made: list[ClusterSubject] = []

    def make() -> Subject:
        made.append(ClusterSubject(Place.made(cluster, monkeypatch).world()))
        return made[-1]

    yield make
    for subject in made:
        subject.world.close()


@pytest.fixture
def subject(new_subject: Callable[[], Subject]) -> Subject:
    return new_subject()
