"""Editing weights in the text of the document, and nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from abmesh.experiment import yaml_edit
from abmesh.experiment.bucketing import reallocate, width
from abmesh.experiment.codec import edit_weights, parse
from abmesh.experiment.errors import DocumentError, UnknownName, WeightsError
from abmesh.experiment.model import Document
from tests.abmesh.experiment.documents import SMALL, THREE, Written, weights_of, written
from tests.examples import examples
from tests.paths import ROOT

NEWLINE = re.compile(r"\r\n|\r|\n")
DEFAULT = (ROOT / "experiments.yaml").read_text()


def with_line(text: str, old: str, new: str) -> str:
    assert text.count(old) == 1
    return text.replace(old, new)


def edit(text: str, experiment: str, weights: Mapping[str, int]) -> str:
    edited, document = edit_weights(text, experiment, weights)
    assert document == parse(edited)
    return edited


class TestEditWeights:
    def test_only_the_weights_change(self) -> None:
        edited = edit(DEFAULT, "chat-model", {"model-a": 7550, "model-b": 2450})
        assert edited == DEFAULT.replace("weight: 95", "weight: 75.5").replace("weight: 5,", "weight: 24.5,")

    def test_the_same_weights_change_nothing(self) -> None:
        text = with_line(SMALL, "weight: 90", "weight: 90.00")
        assert edit(text, "chat", {"model-a": 9000}) == text

    def test_quotes_stay(self) -> None:
        text = with_line(with_line(SMALL, "weight: 90", "weight: '90'"), "weight: 10", 'weight: "10"')
        edited = edit(text, "chat", {"model-a": 8000, "model-b": 2000})
        assert "weight: '80'" in edited
        assert 'weight: "20"' in edited

    def test_ranges_are_written_behind_three_variants(self) -> None:
        edited = edit(THREE, "chat", {"model-a": 4000, "model-b": 3000, "model-c": 3000})
        expected = with_line(THREE, "weight: 50", "weight: 40")
        expected = with_line(expected, "weight: 20", "weight: 30")
        line = "    ranges: {model-a: [[0, 4000]], model-b: [[5000, 8000]], model-c: [[4000, 5000], [8000, 10000]]}\n"
        assert edited == with_line(expected, "    events: [click]\n", line + "    events: [click]\n")

    def test_existing_ranges_are_replaced_in_place(self) -> None:
        once = edit(THREE, "chat", {"model-a": 4000, "model-c": 3000})
        twice = edit(once, "chat", {"model-a": 5000, "model-c": 2000})
        assert once.count("ranges") == twice.count("ranges") == 1
        assert len(once.splitlines()) == len(twice.splitlines()) == len(THREE.splitlines()) + 1

    def test_ranges_of_json_stay_json(self) -> None:
        text = json.dumps(
            {
                "version": 1,
                "experiments": [
                    {
                        "name": "chat",
                        "variants": [
                            {"name": name, "cluster": name, "weight": weight, "control": name == "a"}
                            for name, weight in {"a": 50, "b": 25, "c": 25}.items()
                        ],
                        "unit": [{"header": "x-user-id"}],
                    }
                ],
            }
        )
        edited = json.loads(edit(text, "chat", {"a": 7500, "b": 0}))
        assert edited["experiments"][0]["ranges"] == {"a": [[0, 7500]], "b": [], "c": [[7500, 10000]]}

    def test_a_gone_variant_leaves_the_ranges(self) -> None:
        ranges = "ranges: {gone: [[0, 1000]], model-a: [[1000, 9000]], model-b: [[9000, 10000]]}"
        text = with_line(SMALL, "name: chat", f"name: chat\n    {ranges}")
        edited = edit(text, "chat", {"model-a": 8000, "model-b": 2000})
        assert "gone" not in edited
        assert parse(edited).experiment("chat").ranges == parse(edited).experiment("chat").effective_ranges

    @pytest.mark.parametrize(
        ("weights", "error", "message"),
        [
            ({"model-a": 8000}, WeightsError, "model-a 80 + model-b 10 = 90"),
            ({"model-a": 11000, "model-b": -1000}, WeightsError, "at least 0"),
            ({"model-z": 1}, UnknownName, "no variant named 'model-z'; there is: model-a, model-b"),
        ],
    )
    def test_weights_that_make_no_sense_are_refused(
        self, weights: Mapping[str, int], error: type[Exception], message: str
    ) -> None:
        with pytest.raises(error, match=message.replace("+", r"\+")):
            edit(SMALL, "chat", weights)

    def test_an_unknown_experiment_is_refused(self) -> None:
        with pytest.raises(UnknownName, match="no experiment named 'talk'; there is: chat"):
            edit(SMALL, "talk", {})

    def test_an_invalid_document_is_never_edited(self) -> None:
        with pytest.raises(DocumentError):
            edit(with_line(SMALL, "weight: 10", "weight: 11"), "chat", {"model-a": 8900, "model-b": 1100})

    def test_a_style_that_cannot_be_edited_is_refused_and_says_so(self) -> None:
        text = with_line(THREE, "    variants:\n", "    ? variants\n    :\n")
        assert parse(text) == parse(THREE)
        with pytest.raises(WeightsError, match="cannot change the weights of chat without"):
            edit(text, "chat", {"model-a": 4000, "model-c": 3000})

    def test_ranges_stand_right_behind_a_variant_that_ends_with_an_absent_value(self) -> None:
        old = "      - {name: model-c, cluster: c, weight: 20}   # the newest\n"
        new = "      - name: model-c\n        cluster: c\n        weight: 20\n        timeout:   # none\n"
        new += "\n    # feedback\n"
        edited = edit(with_line(THREE, old, new), "chat", {"model-a": 4000, "model-c": 3000})
        assert "        timeout:   # none\n    ranges: {model-a: " in edited
        assert "\n\n    # feedback\n    events: [click]\n" in edited

    def test_an_edit_that_would_mean_something_else_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # No text is known on which the editor goes wrong; should there be one, it must not be written.
        monkeypatch.setattr(yaml_edit, "apply", lambda _text, _edits: SMALL.replace("x-user-id", "x-other"))
        with pytest.raises(WeightsError, match="cannot change the weights of chat without"):
            edit(SMALL, "chat", {"model-a": 8000, "model-b": 2000})

    @examples(50, suppress_health_check=[HealthCheck.too_slow])
    @given(written(), st.data())
    def test_every_style_of_yaml_survives_an_edit(self, doc: Written, data: st.DataObject) -> None:
        names = list(doc.weights)
        wanted = dict(zip(names, data.draw(weights_of(len(names))), strict=True))
        before, after_text = parse(doc.text), edit(doc.text, "chat", wanted)
        after = parse(after_text)
        assert after.experiment("chat").weights == wanted
        assert _without_weights(before) == _without_weights(after)
        if wanted != doc.weights and (len(names) > 2 or before.experiment("chat").ranges is not None):
            ranges = after.experiment("chat").ranges
            assert ranges == reallocate(before.experiment("chat").effective_ranges, wanted)
            assert ranges is not None
            assert {name: width(parts) for name, parts in ranges.items()} == wanted
        if len(names) == 2 and before.experiment("chat").ranges is None:
            assert len(after_text.splitlines()) == len(doc.text.splitlines())
        assert set(NEWLINE.findall(after_text)) <= set(NEWLINE.findall(doc.text) or ["\n"])
        assert after_text.count("# weight: 5 ü") == doc.text.count("# weight: 5 ü")
        lines = iter(after_text.splitlines(keepends=True))
        for line in doc.text.splitlines(keepends=True):
            if "weight: " not in line and "[" not in line and "ranges" not in line and line.endswith(("\r", "\n")):
                assert line in lines  # in its place: what stands before it in the iterator is used up


def _without_weights(document: Document) -> dict[str, Any]:
    data = document.model_dump()
    for item in data["experiments"]:
        if item["name"] == "chat":
            item.pop("ranges")
            for variant in item["variants"]:
                variant.pop("weight")
    return data
