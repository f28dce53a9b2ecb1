import re

import pytest
from betterproto2 import Casing
from hypothesis import given
from hypothesis import strategies as st

from abmesh.experiment.answers import Answers
from abmesh.mesh.answers import answers_filter, lua_text, reads_answers, script, script_name
from abmesh.mesh.filters import ANSWERS
from tests.abmesh.mesh.documents import document, experiment

OTHER = {"output_tokens": "usage.output_tokens"}


@given(st.text())
def test_a_text_of_the_document_is_one_literal_of_lua_whatever_it_holds(text: str) -> None:
    written = lua_text(text)
    assert re.fullmatch(r'"(?:[ !#-\[\]-~]|\\[0-9]{3})*"', written)
    read = re.sub(rb"\\([0-9]{3})", lambda found: bytes([int(found[1])]), written[1:-1].encode())
    assert read.decode() == text


def test_there_is_one_script_for_each_way_of_answering_and_each_route_names_its_own() -> None:
    of = document(experiment("one"), experiment("two", answers=OTHER), experiment("three"), experiment("four"))
    config = answers_filter(item.answers for item in of.experiments).to_dict(casing=Casing.SNAKE)["typed_config"]
    assert list(config) == ["@type", "source_codes"], "no script for routes that name none"
    usual, other = (script_name(item.answers) for item in of.experiments[:2])
    assert list(config["source_codes"]) == [usual, other]
    named = [reads_answers(item)[ANSWERS].to_dict(casing=Casing.SNAKE)["name"] for item in of.experiments]
    assert named == [usual, other, usual, usual]


def test_routes_of_a_newer_document_find_the_scripts_of_an_older_ones_filter() -> None:
    """Envoy may take its routes from a file that is newer than its filters."""
    older, newer = document(experiment("two")), document(experiment("one"), experiment("two"))
    filter_of_older = answers_filter(item.answers for item in older.experiments).to_dict(casing=Casing.SNAKE)
    known = filter_of_older["typed_config"]["source_codes"]
    for item in newer.experiments:
        assert reads_answers(item)[ANSWERS].to_dict(casing=Casing.SNAKE)["name"] in known


def test_without_experiments_there_is_no_script() -> None:
    assert "source_codes" not in answers_filter(()).to_dict(casing=Casing.SNAKE)["typed_config"]


@pytest.mark.parametrize(
    ("answers", "keys"),
    [
        (
            {"refusals": []},
            '{ quoted = "\\034usage\\034", texts = {}, place = { inside = { ["prompt_tokens"] = { number = 1 }, '
            '["completion_tokens"] = { number = 2 } } } }',
        ),
        (
            {"input_tokens": "n", "output_tokens": "n.m", "refusals": [{"field": "n"}, {"field": "n", "value": "a/b"}]},
            '{ quoted = "\\034n\\034", texts = { "a/b\\034" }, any = true, '
            'place = { number = 1, inside = { ["m"] = { number = 2 } } } }',
        ),
        (
            {"input_tokens": "a.b.c", "output_tokens": "a.b.d", "refusals": []},
            '{ quoted = "\\034a\\034", texts = {}, place = { inside = { ["b"] = { inside = { ["c"] = { number = 1 }, '
            '["d"] = { number = 2 } } } } } }',
        ),
    ],
    ids=["usual", "one key for everything", "deeper"],
)
def test_each_key_is_looked_for_once(answers: dict[str, object], keys: str) -> None:
    text = script(Answers.model_validate(answers))
    assert f"local KEYS = {{\n  {keys},\n}}\n" in text
