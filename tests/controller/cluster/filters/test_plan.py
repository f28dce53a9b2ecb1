"""Which filters are applied, deleted and left alone, and what is said of it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from abmesh.experiment.errors import StateError
from abmesh.mesh.istio.render import Rendered
from controller.cluster.filters import verdicts
from controller.cluster.filters.memory import Entry, Fate, Key, Memory, packed, unpacked
from controller.cluster.filters.plan import Held, Owner, Plan, Situation, doubtful, plan
from tests.abmesh.mesh.istio.worlds import SPLIT, USUAL, experiment, placed, rendered, service, to, virtual_service

NOW = datetime(2026, 12, 1, 12, tzinfo=UTC)
OWNER = Owner("abmesh-controller", "uid-of-the-role")
NAME = "llm/chat"
RENAMED = (*USUAL[:3], virtual_service({**SPLIT, "name": "v2"}))


def at(
    of: Rendered | None = None, memory: Memory | None = None, there: dict[Key, Any] | None = None, **more: Any
) -> Situation:
    """A situation; without more, at an installation."""
    fields = {"experiments": frozenset({NAME}), "owner": OWNER, **more}
    return Situation(of or rendered(), there or {}, memory or Memory(), NOW, **fields)


def carried_out(before: Situation) -> tuple[Situation, Plan]:
    """The situation after a plan was carried out."""
    made = plan(before)
    there = dict(before.existing)
    for key, _ in made.prune:
        del there[key]
    for write in made.apply:
        there[write.key] = stored(write.body)
    memory = made.memory.with_entries({write.key: write.entry(Fate.APPLIED, NOW) for write in made.apply})
    return replace(before, existing=there, memory=memory), made


def stored(body: dict[str, Any]) -> dict[str, Any]:
    """As the API server has it."""
    return {**body, "metadata": {**body["metadata"], "uid": f"uid-{body['metadata']['name']}", "resourceVersion": "7"}}


def installed(**more: Any) -> Situation:
    return carried_out(at(**more))[0]


def route_of(situation: Situation) -> Key:
    return next(item.key for item in situation.rendered.filters if item.route)


def without(situation: Situation, key: Key) -> Situation:
    return replace(situation, existing={other: found for other, found in situation.existing.items() if other != key})


def said(situation: Situation, made: Plan) -> tuple[str, str]:
    found = verdicts.managed(situation.rendered, made, made.memory)[NAME]
    return found.truth, found.reason


def test_an_installation_applies_all_with_label_and_owner_and_then_nothing() -> None:
    after, made = carried_out(at())
    assert [write.item.kind for write in made.apply] == ["gateway", "statistics", "route"]
    for write in made.apply:
        assert write.body["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "abmesh"
        assert write.body["metadata"]["labels"]["abmesh.dev/applied-by"] == "controller"
        assert write.body["metadata"]["ownerReferences"] == [OWNER.reference]
    again = plan(after)
    assert (again.apply, again.prune, dict(again.held)) == ((), (), {})
    assert said(after, again) == ("True", "CandidateOnRoute")
    assert again.memory == after.memory


def test_a_filter_that_a_person_deletes_stays_deleted_until_resume() -> None:
    before = installed()
    key = route_of(before)
    gone = without(before, key)
    assert doubtful(gone) == [key]
    after, made = carried_out(gone)
    assert (made.apply, made.held[key][0]) == ((), Held.REMOVED)
    assert said(after, made) == ("False", "RemovedByPerson")
    # The next leader reads what is remembered.
    after = replace(after, memory=unpacked(packed(made.memory)))
    assert not plan(after).apply
    asked_before = replace(after, resumes={NAME: NOW - timedelta(seconds=1)})
    assert not plan(asked_before).apply
    resumed, made = carried_out(replace(after, resumes={NAME: NOW + timedelta(seconds=1)}))
    assert [write.key for write in made.apply] == [key]
    assert said(resumed, plan(resumed)) == ("True", "CandidateOnRoute")


def test_a_route_that_changes_comes_back_without_what_a_person_deleted() -> None:
    before = installed()
    key = route_of(before)
    removed = carried_out(without(before, key))[0]
    away = carried_out(replace(removed, rendered=rendered(RENAMED)))[0]
    back = plan(replace(away, rendered=before.rendered))
    assert key not in [write.key for write in back.apply]
    assert back.held[key][0] is Held.REMOVED


def test_what_we_deleted_ourselves_is_not_taken_for_a_persons_doing() -> None:
    before = installed()
    gone, made = carried_out(replace(before, rendered=rendered(RENAMED)))
    assert made.prune[0][0] == route_of(before), "the route first"
    assert not gone.existing
    assert said(gone, made) == ("False", "RouteVanished")
    assert said(gone, plan(gone)) == ("False", "RouteVanished"), "it is remembered"
    back, made = carried_out(replace(gone, rendered=before.rendered))
    assert len(made.apply) == 3
    assert said(back, plan(back)) == ("True", "CandidateOnRoute")


def test_a_route_that_never_was_is_refused_with_its_own_reason() -> None:
    situation = at(rendered(RENAMED))
    assert said(situation, plan(situation)) == ("False", "RouteMissing")


def test_a_deleted_experiment_leaves_nothing_not_even_in_memory() -> None:
    before = installed()
    after, made = carried_out(replace(before, rendered=Rendered(), experiments=frozenset()))
    assert made.prune[0][0] == route_of(before), "the route first"
    assert (dict(after.existing), dict(after.memory.entries)) == ({}, {})


def test_what_an_experiment_has_that_is_not_accepted_any_more_stays() -> None:
    before = installed()
    made = plan(replace(before, rendered=Rendered(), unknown=frozenset({NAME})))
    assert (made.apply, made.prune, made.memory) == ((), (), before.memory)


def test_a_changed_route_is_merged_anew_and_an_edit_by_hand_undone() -> None:
    before = installed()
    key = route_of(before)
    changed = (*USUAL[:3], service("other"), virtual_service({"name": "v1", "route": [to(host="other")]}))
    assert [write.key for write in plan(replace(before, rendered=rendered(changed))).apply] == [key]
    edited = dict(before.existing)
    edited[key] = {**edited[key], "spec": {**edited[key]["spec"], "priority": 99}}
    assert [write.key for write in plan(replace(before, existing=edited)).apply] == [key]


def test_a_rejected_filter_is_tried_again_when_it_changes_or_after_resume() -> None:
    before = installed()
    key = route_of(before)
    memory = before.memory.with_fate([key], Fate.REJECTED, NOW, "no such cluster")
    rejected = replace(without(before, key), memory=memory)
    made = plan(rejected)
    assert (made.apply, made.held[key][0]) == ((), Held.REJECTED)
    assert "no such cluster" in made.held[key][1]
    assert said(rejected, made) == ("False", "Rejected")
    assert plan(replace(rejected, resumes={NAME: NOW})).apply
    other = rendered(
        (*USUAL[:3], virtual_service(SPLIT)),
        placed(experiment(match={"path_prefix": "/v2/"})),
        placed(experiment("more", match={"path_prefix": "/"})),
    )
    assert key in [write.key for write in plan(replace(rejected, rendered=other)).apply]


def test_a_filter_that_was_found_wrong_is_never_applied() -> None:
    situation = at()
    key = route_of(situation)
    made = plan(replace(situation, faults={key: "weights sum to 0"}))
    assert key not in [write.key for write in made.apply]
    assert said(situation, made) == ("False", "FilterInvalid")


def test_listener_updates_can_wait_for_a_person() -> None:
    manual = replace(installed(), listener_updates=False)
    more = placed(experiment("more", unit=[{"header": "x-other"}], match={"path_prefix": "/"}))
    after = replace(manual, rendered=rendered(USUAL, placed(), more), experiments=frozenset({NAME, "llm/more"}))
    made = plan(after)
    assert [write.item.kind for write in made.apply if write.item.kind == "gateway"] == []
    found = verdicts.managed(after.rendered, made, made.memory)
    assert found["llm/more"].reason == "GatewayPatchNeeded"
    assert found[NAME].truth == "True", "who was served before, is"
    assert plan(replace(at(), listener_updates=False)).apply, "an installation is no update"


def test_a_filter_from_git_is_left_alone() -> None:
    situation = at()
    key = route_of(situation)
    theirs = next(item.body for item in situation.rendered.filters if item.key == key)
    same = plan(at(there={key: stored(theirs)}))
    assert key not in [write.key for write in same.apply]
    assert not same.held
    other = {**theirs, "spec": {**theirs["spec"], "priority": 7}}
    made = plan(at(there={key: stored(other)}))
    assert made.held[key][0] is Held.FOREIGN
    assert plan(at(Rendered(), there={key: stored(other)})).prune == ()


def test_of_an_unmanaged_experiment_it_is_said_whether_git_has_what_is_rendered() -> None:
    of = rendered()
    applied = {item.key: stored(item.body) for item in of.filters}
    assert verdicts.unmanaged(NAME, of, applied).reason == "AppliedByOthers"
    assert verdicts.unmanaged(NAME, of, {}).reason == "FiltersMissing"
    changed = {key: {**item, "spec": {**item["spec"], "priority": 1}} for key, item in applied.items()}
    assert verdicts.unmanaged(NAME, of, changed).reason == "FiltersOutdated"
    assert verdicts.unmanaged(NAME, rendered(RENAMED), applied).reason == "RouteMissing"


def test_what_is_left_to_git_stays_as_it_is_until_git_changes_it() -> None:
    before = installed()
    handed = replace(before, rendered=Rendered(), left=frozenset(before.existing))
    after, made = carried_out(handed)
    assert (made.apply, made.prune) == ((), ())
    assert verdicts.unmanaged(NAME, before.rendered, after.existing).reason == "AppliedByOthers"
    assert len(plan(replace(after, left=frozenset())).prune) == 3, "with the Experiment they go"


def test_memory_that_makes_no_sense_is_refused_with_what_to_do() -> None:
    entry = Entry(Fate.REJECTED, "ab12", NOW.isoformat(), (NAME,), "llm/virtualservice/chat/v1", "why")
    memory = Memory("uid", {("edge", "abmesh-route"): entry})
    assert unpacked(packed(memory)) == memory
    for text in ("", "[]", '{"owner": "x"}', '{"owner": "x", "filters": [["a", "b", {"fate": "eaten"}]]}'):
        with pytest.raises(StateError, match="delete the ConfigMap"):
            unpacked(text)
