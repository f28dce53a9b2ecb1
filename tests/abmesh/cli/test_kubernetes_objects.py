"""Files and objects on the command line: ``convert``, and what ``validate`` and ``schema`` do with objects."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from abmesh.experiment.codec import parse
from abmesh.kube.schema import text
from tests.abmesh.cli.calls import call, refused
from tests.abmesh.kube.specs import FULL, item
from tests.paths import ROOT

BACKENDS = ("--backend", "model-a=model-a:8000", "--backend", "model-b=llm.models/model-b:8000")
TO_OBJECT = ("--namespace", "llm", "--route", "HTTPRoute/chat/v1", *BACKENDS)


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the default document, in the folder in which the command runs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ABMESH_CONFIG", raising=False)
    return Path(shutil.copy(ROOT / "experiments.yaml", tmp_path / "experiments.yaml"))


class TestConvert:
    def test_there_and_back_is_the_same_experiment(self, config: Path) -> None:
        made = call("convert", "experiments.yaml", *TO_OBJECT)
        assert made.code == 0, made
        Path("object.yaml").write_text(made.out)
        assert call("validate", "--config", "object.yaml").out == "object.yaml: valid, 1 Experiment: llm/chat-model\n"
        back = call("convert", "object.yaml", "--without", "routes")
        assert back.code == 0, back
        (before,), (after,) = parse(config.read_text()).experiments, parse(back.out).experiments
        variants = [variant.model_copy(update={"cluster": ""}) for variant in before.variants]
        assert [variant.model_copy(update={"cluster": ""}) for variant in after.variants] == variants
        assert after.model_copy(update={"variants": ()}) == before.model_copy(update={"variants": ()})
        assert [variant.cluster for variant in after.variants] == [
            "outbound|8000||model-a.llm.svc.cluster.local",
            "outbound|8000|model-b|llm.models.svc.cluster.local",
        ]

    def test_names_every_field_without_a_place(self) -> None:
        Path("object.yaml").write_text(json.dumps(item(FULL)))
        told = call("convert", "object.yaml")
        assert told.code == 1
        assert [line.partition(": then")[0].split(": ")[-2] for line in told.err.splitlines()]
        assert told.err.count("; then add --without ") == 7

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (("experiments.yaml", "--route", "Service/x"), "is not a route; allowed: KIND/NAME"),
            (("experiments.yaml", "--backend", "x"), "is not the Service of a cluster; allowed: CLUSTER=SERVICE:PORT"),
            (("experiments.yaml", "--backend", "x=y:99999"), "is not the Service of a cluster"),
            (("object.yaml", "--route", "HTTPRoute/x"), "holds objects, and --route is for a document"),
        ],
    )
    def test_wrong_usage_exits_with_2(self, arguments: tuple[str, ...], words: str) -> None:
        Path("object.yaml").write_text(json.dumps(item()))
        told = call("convert", *arguments)
        assert told.code == 2
        assert words in " ".join(told.err.replace("\u2502", " ").split())

    def test_a_missing_file_is_one_clear_line(self) -> None:
        refused(call("convert", "nowhere.yaml"), 1, "nowhere.yaml: cannot read")


class TestValidate:
    def test_names_the_objects_field_and_line(self) -> None:
        spec = item(FULL)
        spec["spec"]["variants"][1]["weight"] = 13
        Path("object.yaml").write_text(json.dumps(spec, indent=1))
        line = next(n for n, text in enumerate(Path("object.yaml").read_text().splitlines(), 1) if '"variants"' in text)
        refused(
            call("validate", "--config", "object.yaml"),
            1,
            f"object.yaml:{line}: spec.variants: weights must sum to exactly 100; found 87.5 + 13 = 100.5; allowed:",
        )

    def test_says_what_is_worth_knowing_in_the_objects_words(self) -> None:
        Path("object.yaml").write_text(json.dumps(item(FULL)))
        told = call("validate", "--config", "object.yaml")
        assert told.code == 0
        assert "note: llm/chat: saltFile: file /etc/abmesh/secrets/chat-salt is read by the server" in told.out
        assert "note: llm/chat: issueCookie.keyFiles: " in told.out

    def test_says_what_no_route_can_serve_in_the_native_lane(self) -> None:
        Path("object.yaml").write_text(json.dumps(item({**FULL, "lane": "native"})))
        told = call("validate", "--config", "object.yaml").out
        assert "note: llm/chat: its routes will be left alone (LaneUnsupported): unit: found " in told
        assert "LaneUnsupported): issueCookie: only the server" in told

    def test_envoy_checks_documents_only(self) -> None:
        Path("object.yaml").write_text(json.dumps(item()))
        assert call("validate", "--config", "object.yaml", "--envoy").code == 2


def test_schema_prints_the_definition() -> None:
    printed = call("schema", "--kubernetes")
    assert printed.out == text()
    assert YAML(typ="safe").load(printed.out)["kind"] == "CustomResourceDefinition"


def test_a_document_keeps_bare_names(config: Path) -> None:
    config.write_text(config.read_text().replace("name: chat-model", "name: llm/chat-model"))
    refused(
        call("validate"),
        1,
        "experiments[0].name: only an experiment in a cluster has a namespace in its name; found llm/chat-model",
    )
