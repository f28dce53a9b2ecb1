"""A field's old name still works, with a warning that says where it is and what to write."""

from __future__ import annotations

from pathlib import Path

import pytest

from abmesh.experiment.codec import edit_weights, json_schema, parse, parse_with_warnings
from abmesh.experiment.errors import DocumentError
from abmesh.experiment.model import Experiment
from abmesh.experiment.store import FileStore
from tests.abmesh.cli.calls import call
from tests.abmesh.experiment.documents import SMALL


def with_analysis(analysis: str) -> str:
    return f"{SMALL.rstrip()}\n    rollout:\n      candidate: model-b\n      steps: [50]\n      analysis: {analysis}\n"


OLD = with_analysis("{alpha: 5%, brake: 30%}")
NEW = with_analysis("{alpha: 5%, emergency_stop: 30%}")
LINE = len(OLD.splitlines())
PATH = "experiments[0].rollout.analysis"


def test_the_old_name_means_the_same_and_is_warned_about() -> None:
    found = parse_with_warnings(OLD, "a.yaml")
    assert found.document == parse(NEW)
    assert [item.describe("a.yaml") for item in found.warnings] == [
        f"a.yaml:{LINE}: {PATH}.brake: deprecated field; rename it to emergency_stop"
    ]
    assert parse_with_warnings(NEW).warnings == ()


@pytest.mark.parametrize(
    ("analysis", "problem"),
    [
        ("{brake: 30%, emergency_stop: 30%}", "brake: brake is the old name of emergency_stop, and both are given; "),
        ("{brake: often}", "brake: not a share; found often; "),
        ("{brake: 0.1%}", "brake: too low for an emergency stop; use a guardrail; "),
        ("{emergency_stops: 5%}", "emergency_stops: unknown field; did you mean emergency_stop?; "),
    ],
)
def test_a_problem_calls_the_field_as_the_document_does(analysis: str, problem: str) -> None:
    with pytest.raises(DocumentError) as caught:
        parse(with_analysis(analysis), "a.yaml")
    assert str(caught.value).startswith(f"a.yaml:{LINE}: {PATH}.{problem}")


def test_a_recorded_experiment_with_the_old_name_is_read_and_written_with_the_new_one() -> None:
    recorded = parse(NEW).experiment("chat").model_dump(mode="json", exclude_unset=True)
    analysis = recorded["rollout"]["analysis"]
    analysis["brake"] = analysis.pop("emergency_stop")
    assert Experiment.model_validate(recorded).model_dump()["rollout"]["analysis"]["emergency_stop"] == 0.3


def test_the_schema_has_both_names_and_marks_the_old_one() -> None:
    fields = json_schema()["$defs"]["Analysis"]["properties"]
    assert fields["brake"]["deprecated"] is True
    assert "emergency_stop" in fields["brake"]["description"]
    assert "deprecated" not in fields["emergency_stop"]


def test_an_edit_of_the_weights_keeps_the_old_name() -> None:
    assert "brake: 30%" in edit_weights(OLD, "chat", {"model-a": 8000, "model-b": 2000})[0]


def test_a_store_warns_once_however_often_the_document_changes(tmp_path: Path) -> None:
    path = tmp_path / "experiments.yaml"
    path.write_text(OLD)
    told: list[str] = []
    store = FileStore(path, warn=told.append)
    snapshot = store.read()
    written = store.write_weights("chat", {"model-a": 8000, "model-b": 2000}, based_on=snapshot.generation)
    path.write_text("# edited\n" + written.text)
    assert store.read().warnings
    assert told == [f"{path}:{LINE}: {PATH}.brake: deprecated field; rename it to emergency_stop"]


def test_abmesh_validate_shows_the_warning(tmp_path: Path) -> None:
    path = tmp_path / "experiments.yaml"
    path.write_text(OLD)
    shown = call("validate", "--config", str(path))
    assert shown.code == 0
    assert f"warning: {path}:{LINE}: {PATH}.brake: deprecated field; rename it to emergency_stop\n" in shown.out
