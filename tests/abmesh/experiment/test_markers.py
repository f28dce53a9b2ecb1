"""The cookie that marks continued sessions fits beside the others."""

import re
from typing import Any

import pytest
from pydantic import ValidationError

from abmesh.experiment.model import Document

EXPERIMENT: dict[str, Any] = {
    "name": "chat-model",
    "unit": [{"cookie": "sid"}],
    "issue_cookie": {"name": "sid", "max_age": "1h"},
    "variants": [
        {"name": "model-a", "cluster": "model-a", "weight": 50, "control": True},
        {"name": "model-b", "cluster": "model-b", "weight": 50},
    ],
    "events": ["continuation"],
}


def parse(*experiments: dict[str, Any]) -> Document:
    return Document.model_validate({"version": 1, "experiments": [{**EXPERIMENT, **one} for one in experiments]})


def named(name: str) -> dict[str, Any]:
    return {"unit": [{"cookie": name}], "issue_cookie": {"name": name, "max_age": "1h"}}


def test_a_cookies_name_must_leave_room_for_the_ending_of_continued_sessions() -> None:
    parse(named("s" * 118))
    parse(named("s" * 119) | {"events": []})
    with pytest.raises(ValidationError, match="too long for continuation"):
        parse(named("s" * 119))


def test_the_cookie_of_continued_sessions_cannot_be_a_unit() -> None:
    taken = {"unit": [{"cookie": "sid"}, {"cookie": "sid-continued"}]}
    other = {"name": "other", "unit": [{"cookie": "sid-continued"}], "issue_cookie": None, "events": []}
    message = re.escape("continuation sets this cookie itself, so it cannot be a unit")
    for experiments in ([taken], [{}, other], [other, {}]):
        with pytest.raises(ValidationError, match=message):
            parse(*experiments)
    parse({"events": []}, other)


def test_experiments_may_share_a_session() -> None:
    parse({}, {"name": "other"})
