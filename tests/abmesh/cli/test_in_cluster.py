"""Commands with ``--kubernetes``, as a person types them, on an API server in this process and a controller's ticks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from abmesh.cli.main import run_as_plugin
from abmesh.experiment.bucketing import bucket_of
from abmesh.kube.resources import EXPERIMENTS
from controller.records import Phase
from tests.abmesh.cli.calls import call, refused
from tests.abmesh.kube.fake_api import FakeApi
from tests.controller.cluster.support import ClusterWorld, judge_first_step, manifest, spec, ticking

ON = "--kubernetes"


@pytest.fixture
def api() -> Iterator[FakeApi]:
    with FakeApi().running() as running:
        yield running


@pytest.fixture
def world(api: FakeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ClusterWorld]:
    """A rollout at its first step, judged, and a kubeconfig whose context is in its namespace."""
    monkeypatch.chdir(tmp_path)
    for name in ("ABMESH_CONFIG", "ABMESH_STATE", "ABMESH_KUBERNETES", "ABMESH_NAMESPACE", "ABMESH_WARMUP"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    context = {"cluster": "here", "user": "ada", "namespace": "llm"}
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "here", "cluster": {"server": api.connection.server}}],
        "users": [{"name": "ada", "user": {}}],
        "contexts": [
            {"name": "ada", "context": context},
            {"name": "elsewhere", "context": {**context, "namespace": "web"}},
        ],
        "current-context": "ada",
    }
    with (tmp_path / "kubeconfig").open("w") as file:
        YAML().dump(content, file)
    found = ClusterWorld(api.client)
    try:
        judge_first_step(found)
        yield found
    finally:
        found.close()


@pytest.fixture
def controller(world: ClusterWorld) -> Iterator[ClusterWorld]:
    """The same, and a controller that ticks."""
    with ticking(world, 0.05):
        yield world


def test_status_journal_explain_analyze_and_replay_read_it(world: ClusterWorld) -> None:
    found = json.loads(call("status", ON, "--json").out)
    assert (found["experiment"], found["state"], found["stage"]) == (
        "llm/chat",
        "progressing",
        "step 1 of 3: model-b at 10%",
    )
    assert found["requests"] > 0
    assert found["unseen"] == []
    assert "llm/chat" in call("status", ON).out
    entries = [json.loads(line) for line in call("journal", "chat", ON, "--json").out.splitlines()]
    assert [entry["id"] for entry in entries] == [entry.id for entry in world.journal()]
    assert len(call("journal", ON, "--limit", "1").out.splitlines()) == 1
    explained = call("explain", "llm/chat", ON)
    assert explained.code == 0, explained
    assert "error_rate" in explained.out
    assert "error_rate" in call("analyze", "chat", ON).out
    assert "error_rate" in call("analyze", "llm/chat", ON).out
    replayed = call("replay", "chat", ON)
    assert replayed.code == 0, replayed
    assert ", 0 differ" in replayed.out
    assert call("replay", ON).out == replayed.out


def test_assign_and_validate(world: ClusterWorld) -> None:
    world.watch()
    experiment = world.stores.documents.read().document.experiment("llm/chat")
    found = json.loads(call("assign", "chat", ON, "--unit", "alice", "--json").out)
    assert found["bucket"] == bucket_of(experiment.hash_salt, b"alice")
    assert found["variant"] == experiment.cells[found["bucket"]].variant
    assert call("validate", ON).out.startswith("namespace llm: 1 valid Experiment: llm/chat; generation ")
    bad = spec()
    bad["variants"][0]["weight"] = 90
    world.people.create(EXPERIMENTS, "llm", manifest("llm", "bad", bad))
    found_bad = call("validate", ON)
    assert found_bad.code == 1
    assert found_bad.err.startswith("abmesh: llm/bad is not accepted: spec.variants: ")
    assert call("validate", ON, "--all-namespaces").out.startswith("all namespaces: 1 valid Experiment: llm/chat")
    shown = call("status", ON, "--json").out.splitlines()
    assert [json.loads(line)["config_error"] != "" for line in shown] == [False, True]


def test_a_saltfile_that_only_pods_have_is_named(world: ClusterWorld) -> None:
    world.people.create(EXPERIMENTS, "llm", manifest("llm", "secret", {**spec(5), "saltFile": "salt"}))
    refused(call("assign", "secret", ON, "--unit", "alice"), 1, "/etc/abmesh/secrets/salt")


def test_pause_resume_promote_weights_and_rollback(controller: ClusterWorld) -> None:
    assert call("pause", "chat", ON, "--reason", "a look").out.startswith("llm/chat: paused at 10% by ")
    assert controller.phase() is Phase.PAUSED
    asked = call("resume", "chat", ON)
    assert asked.code == 1
    assert asked.err.splitlines()[0] == "llm/chat: paused, model-b at 10%"
    assert "probe: none, because the candidate's pods are reached inside the cluster only" in asked.err
    assert "asks before it acts, and there is no terminal" in asked.err
    assert controller.phase() is Phase.PAUSED
    assert call("resume", "chat", ON, "--yes").out.startswith("llm/chat: resumed by ")
    promoted = call("promote", "llm/chat", ON, "--step", "--yes")
    assert promoted.out.endswith("(model-a 90 -> 50, model-b 10 -> 50)\n"), promoted
    weights = call("weights", "chat", "model-b=12.5", ON)
    assert weights.out.startswith("llm/chat: model-a 50 -> 87.5, model-b 50 -> 12.5 (generation "), weights
    assert call("rollback", "chat", ON).out.endswith("(model-a 87.5 -> 100, model-b 12.5 -> 0)\n")
    refused(call("rollback", "chat", ON), 1, "cannot roll back llm/chat: it is rolled back at 0%")


def test_a_missing_right_is_said(api: FakeApi, world: ClusterWorld) -> None:
    api.fail(403, "/configmaps/", 1000, "Forbidden", 'User "ada" cannot get resource "configmaps"')
    for command in (("explain", "chat"), ("analyze", "chat"), ("journal",), ("replay", "chat")):
        told = call(*command, ON)
        assert told.code == 1, command
        assert "may not get configmaps " in told.err, told
        assert 'in namespace abmesh: User "ada" cannot get resource "configmaps"' in told.err, told
    shown = call("status", ON)
    assert shown.code == 0
    assert "not seen: what was counted: may not get configmaps" in " ".join(shown.out.split())
    api.fail(403, "PATCH ", 1000, "Forbidden", 'User "ada" cannot patch resource "experiments"')
    refused(call("pause", "chat", ON), 1, "may not patch experiments.abmesh.dev chat in namespace llm")


def test_namespaces_and_contexts(world: ClusterWorld) -> None:
    refused(call("explain", "chat", ON, "--context", "elsewhere"), 1, "no experiment named 'web/chat'; there is: none")
    assert call("explain", "chat", ON, "--context", "elsewhere", "--namespace", "llm").code == 0
    refused(call("explain", "web/chat", ON, "-n", "llm"), 2, "web/chat is not in --namespace llm")
    assert call("status", ON, "-n", "web", "--json").out == ""
    assert "llm/chat" in call("status", ON, "-n", "web", "--all-namespaces", "--json").out
    refused(call("status", "-n", "llm"), 2, "--namespace goes with --kubernetes")
    refused(call("status", ON, "--state", "state"), 2, "--state is for files")
    refused(call("pause", "chat", ON, "--config", "other.yaml"), 2, "--config is for files")
    refused(call("status", ON, "--context", "none"), 1, "kubeconfig")


def test_validate_reads_the_file_that_is_named(world: ClusterWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ABMESH_KUBERNETES", "1")
    Path("experiments.yaml").write_text(json.dumps(manifest("llm", "other", spec(5))))
    assert call("validate", "-c", "experiments.yaml").out == "experiments.yaml: valid, 1 Experiment: llm/other\n"
    assert call("validate").out.startswith("namespace llm: 1 valid Experiment: llm/chat; ")


def test_the_environment_stands_in_for_the_option(world: ClusterWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ABMESH_KUBERNETES", "1")
    monkeypatch.setenv("ABMESH_STATE", "/somewhere")
    assert json.loads(call("status", "--json").out)["experiment"] == "llm/chat"


def test_as_a_plugin_of_kubectl(
    world: ClusterWorld, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ABMESH_KUBERNETES", "")  # so that it is put back afterwards
    monkeypatch.setattr("sys.argv", ["/usr/local/bin/kubectl-abmesh", "status", "--json"])
    with pytest.raises(SystemExit) as ended:
        run_as_plugin()
    assert ended.value.code == 0
    assert json.loads(capsys.readouterr().out)["experiment"] == "llm/chat"
    monkeypatch.setattr("sys.argv", ["kubectl-abmesh", "status", "--help"])
    with pytest.raises(SystemExit):
        run_as_plugin()
    assert "kubectl abmesh status [OPTIONS]" in capsys.readouterr().out


def test_uninstall(world: ClusterWorld) -> None:
    refused(
        call("uninstall", "--gateway-namespace", "istio-ingress"), 2, "uninstall is for a cluster; add --kubernetes"
    )
    world.close()
    done = call("uninstall", ON, "--gateway-namespace", "istio-ingress", "--caller-namespace", "web", "--owner", "x")
    assert done.code == 0, done
    assert done.out == "took the Lease abmesh/abmesh\ndeleted 0 EnvoyFilters; Experiments stay\n"
