from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from abmesh.experiment.errors import SecretError
from abmesh.experiment.model import Experiment
from abmesh.kube.accepted import Served, judge
from tests.abmesh.kube.experiments import stored


def complete(experiment: Experiment, item: Mapping[str, Any]) -> Experiment:
    raise AssertionError(f"{experiment.name} names no secrets")


def judged(*items: Mapping[str, Any], before: Served | None = None, complete: Any = complete) -> Served:
    keyed = {(item["metadata"]["namespace"], item["metadata"]["name"]): dict(item) for item in items}
    return judge(keyed, before or Served(), complete)


def names(served: Served) -> list[str]:
    return [experiment.name for experiment in served.experiments]


BAD = {"weights": {"model-a": 90, "model-b": 20}}


def test_an_object_is_served_under_its_namespace_and_name() -> None:
    served = judged(stored("chat"))
    assert names(served) == ["llm/chat"]
    assert served.experiments[0].hash_salt == "chat"
    assert served.experiments[0].variants[0].cluster == "outbound|8000||model-a.llm.svc.cluster.local"


def test_the_weights_in_force_are_served() -> None:
    status: dict[str, Any] = {
        "weights": {"model-a": 75, "model-b": 25},
        "ranges": {"model-a": [[0, 7500]], "model-b": [[7500, 10000]]},
        "lastSeenSpecWeights": {"model-a": 90, "model-b": 10},
    }
    assert judged(stored("chat", status=status)).experiments[0].weights == {"model-a": 7500, "model-b": 2500}


def test_a_bad_object_touches_no_other_and_is_named() -> None:
    served = judged(stored("bad", **BAD), stored("good"))
    assert names(served) == ["llm/good"]
    assert list(served.refused) == ["llm/bad"]
    assert "spec.variants: weights must sum to exactly 100" in served.refused["llm/bad"]
    assert list(served.digests) == ["llm/good"]


def test_the_last_good_form_of_a_refused_object_stays_in_force() -> None:
    before = judged(stored("chat", weights={"model-a": 60, "model-b": 40}))
    after = judged(stored("chat", **BAD), before=before)
    assert after.experiments == before.experiments
    assert list(after.refused) == ["llm/chat"]
    assert after.digests == {}
    again = judged(stored("chat", **BAD), before=after)
    assert again.experiments == before.experiments


def test_another_object_of_the_same_name_has_no_last_good_form() -> None:
    before = judged(stored("chat"))
    assert names(judged(stored("chat", uid="another", **BAD), before=before)) == []


def test_a_deleted_object_is_no_longer_served() -> None:
    assert names(judged(stored("b"), before=judged(stored("a"), stored("b")))) == ["llm/b"]


def test_requests_are_matched_in_the_order_of_the_places() -> None:
    served = judged(
        stored("wide", match={"pathPrefix": "/"}),
        stored("young", created="2026-03-01T00:00:00Z"),
        stored("b", created="2026-02-01T00:00:00Z"),
        stored("a", created="2026-02-01T00:00:00Z"),
        stored("headers", match={"pathPrefix": "/v1/", "headers": {"x-a": "1"}}, created="2026-04-01T00:00:00Z"),
        stored("long", match={"pathPrefix": "/v1/chat"}, created="2026-05-01T00:00:00Z"),
    )
    assert names(served) == ["llm/long", "llm/headers", "llm/a", "llm/b", "llm/young", "llm/wide"]


def test_an_unchanged_object_is_not_read_again() -> None:
    item = stored("chat")
    before = judged(item)
    assert judged(item, stored("other"), before=before).objects["llm", "chat"] is before.objects["llm", "chat"]


def test_a_digest_changes_with_spec_ranges_and_object() -> None:
    def digest(**changes: Any) -> int:
        return judged(stored("chat", **changes)).digests["llm/chat"]

    status: dict[str, Any] = {"ranges": {"model-a": [[0, 9000]], "model-b": [[9000, 10000]]}}
    seen: dict[str, Any] = {"lastSeenSpecWeights": {"model-a": 90, "model-b": 10}}
    found = [
        digest(),
        digest(generation=2),
        digest(uid="another"),
        digest(status=status | seen | {"ranges": {"model-a": [[1000, 10000]], "model-b": [[0, 1000]]}}),
    ]
    assert len(set(found)) == 4
    assert digest() == digest(status=status | seen | {"phase": "Paused", "reason": "asked to"})


def test_secrets_are_looked_at_again_even_if_the_object_is_unchanged() -> None:
    item = stored("chat", saltFile="salt")
    salts = ["a" * 32]

    def read(experiment: Experiment, _: Mapping[str, Any]) -> Experiment:
        if not salts:
            raise SecretError("no such file")
        assert experiment.secret_salt is not None
        return experiment.model_copy(update={"secret_salt": experiment.secret_salt.holding(salts[0])})

    first = judged(item, complete=read)
    assert first.has_secrets
    assert first.experiments[0].hash_salt == "a" * 32
    salts[0] = "b" * 32
    second = judged(item, before=first, complete=read)
    assert second.experiments[0].hash_salt == "b" * 32
    salts.clear()
    third = judged(item, before=second, complete=read)
    assert third.refused == {"llm/chat": "no such file"}
    assert third.experiments[0].hash_salt == "b" * 32
    salts.append("c" * 32)
    assert judged(item, before=third, complete=read).experiments[0].hash_salt == "c" * 32
