"""What the documentation says about the document and the law is true."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from enum import Enum

import pytest
import xxhash
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from abmesh.experiment import answers, checks, limits, metrics, model, parts, rollout, secret_source
from abmesh.experiment.bucketing import bucket_of, cells, initial_ranges, reallocate
from abmesh.experiment.codec import json_schema, parse
from abmesh.experiment.errors import DocumentError
from abmesh.experiment.journal_bound import JournalBound
from abmesh.experiment.places import place_of
from abmesh.experiment.quantities import Bytes, format_duration, format_size, parse_weight
from tests.paths import ROOT

DOCS = ROOT / "docs"
ASSIGNMENT = (DOCS / "assignment.md").read_text()
CONFIGURATION = (DOCS / "configuration.md").read_text()

MODELS: dict[str, type[BaseModel]] = {
    "The document": model.Document,
    "A cluster": parts.Cluster,
    "TLS of a cluster": parts.Tls,
    "A journal's bound": JournalBound,
    "An experiment": model.Experiment,
    "A match": parts.Match,
    "A unit's source": parts.UnitSource,
    "The issued cookie": parts.IssueCookie,
    "A secret": secret_source.SecretSource,
    "A variant": parts.Variant,
    "A price": parts.Price,
    "An override": parts.Override,
    "Segments": parts.Segments,
    "Answers": answers.Answers,
    "A signal": answers.Signal,
    "A header signal": answers.HeaderSignal,
    "An event": answers.Event,
    "An event's value": answers.EventValueBounds,
    "A rollout": rollout.Rollout,
    "A stage": rollout.Stage,
    "A guardrail": limits.Guardrail,
    "A goal": limits.Goal,
    "A check": checks.Check,
    "A warm-up": rollout.Warmup,
    "An analysis": rollout.Analysis,
}


class Words(Enum):
    """Defaults that the documentation puts in words."""

    SALT = "the name"
    MATCH = "every request"
    STAGE = "a stage's defaults"
    ANALYSIS = "an analysis' defaults"
    ANSWERS = "answers as OpenAI's"
    JOURNAL = "a bound's defaults"


def table(text: str, header: str) -> list[list[str]]:
    """Cells of every row of the table with a header."""
    lines = iter(text.splitlines())
    for line in lines:
        if line == header:
            break
    else:
        pytest.fail(f"no table {header}")
    next(lines)
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    assert rows
    return rows


def weights_in(cell: str) -> dict[str, int]:
    """``model-a 90, model-b 10`` as basis points."""
    result = {}
    for part in cell.split(", "):
        name, percent = part.split(" ")
        points = parse_weight(percent)
        assert points is not None
        result[name] = points
    return result


def ranges_in(cell: str) -> dict[str, tuple[tuple[int, int], ...]]:
    """``model-a [0, 1], [2, 3]; model-b none`` as ranges."""
    result = {}
    for part in cell.split("; "):
        name, _, owned = part.partition(" ")
        found = re.findall(r"\[(\d+), (\d+)\]", owned)
        assert found or owned == "none"
        result[name] = tuple((int(start), int(stop)) for start, stop in found)
    return result


class TestAssignment:
    def test_vectors_of_the_hash(self) -> None:
        rows = table(ASSIGNMENT, "| salt | unit | xxh64 | bucket |")
        assert any(not unit.isascii() for _, unit, _, _ in rows)
        for salt, unit, digest, bucket in rows:
            salt, unit = salt.strip("`"), unit.strip("`")
            assert xxhash.xxh64_hexdigest(f"{salt}:{unit}".encode()) == digest.strip("`")
            assert bucket_of(salt, unit.encode()) == int(digest.strip("`"), 16) % 10_000 == int(bucket)

    def test_ranges(self) -> None:
        for before, after, ranges in table(ASSIGNMENT, "| weights before | weights after | ranges after |"):
            fitted = reallocate(initial_ranges(weights_in(before)), weights_in(after))
            assert fitted == ranges_in(ranges)

    def test_slices_and_groups(self) -> None:
        rows = table(ASSIGNMENT, "| weights | bucket | variant | slice | group |")
        assert max(len(weights_in(row[0])) for row in rows) == 3
        for weights, bucket, variant, slice_, group in rows:
            cell = cells(initial_ranges(weights_in(weights)), 50)[int(bucket)]
            assert (cell.variant, cell.slice, cell.group) == (variant, int(slice_), int(group))

    def test_places(self) -> None:
        for experiment, variant, place in table(ASSIGNMENT, "| experiment | variant | place |"):
            assert place_of(experiment.strip("`"), variant.strip("`")) == int(place)

    def test_slices_of_scattered_ranges(self) -> None:
        """The sentence under the table of slices."""
        row = table(ASSIGNMENT, "| weights before | weights after | ranges after |")[1]
        found = cells(ranges_in(row[2]), 50)
        assert (found[4999].variant, found[4999].slice) == (found[8000].variant, found[8000].slice) == ("model-c", 16)

    def test_the_program_runs(self) -> None:
        (program,) = re.findall(r"```python\n(.*?)```", ASSIGNMENT, re.DOTALL)
        exec(compile(program, "assignment.md", "exec"), {})


def sections() -> Iterator[tuple[str, str]]:
    for part in CONFIGURATION.split("\n### ")[1:]:
        title, _, body = part.partition("\n")
        yield title, body


def shown(name: str, field: FieldInfo) -> str:
    """A default as the documentation writes it."""
    default = field.default
    if name == "salt":
        return Words.SALT.value
    if default is PydanticUndefined:
        return "required"
    if default is None or default in ((), {}, ""):
        return "none"
    words: list[tuple[object, Words]] = [
        (answers.Answers(), Words.ANSWERS),
        (parts.Match(), Words.MATCH),
        (rollout.Stage(), Words.STAGE),
        (rollout.Analysis(), Words.ANALYSIS),
        (JournalBound(), Words.JOURNAL),
    ]
    for value, word in words:
        if default == value:
            return word.value
    if isinstance(default, tuple):
        return ", or ".join(
            " with ".join(f"`{text}`" for text in signal.model_dump(exclude_none=True).values()) for signal in default
        )
    if isinstance(default, timedelta):
        return f"`{format_duration(default)}`"
    if isinstance(default, Bytes):
        return f"`{format_size(default)}`"
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


def described(metric: metrics.Metric) -> list[str]:
    """The cells of a metric's row but for its meaning."""
    if metric.quantile is not None:
        numerator, denominator = f"{metric.quantile:.0%} of `{metric.histogram}`", "none"
    else:
        signed = [f"{'-' if weight < 0 else '+'} `{amount}`" for amount, weight in metric.parts]
        numerator = " ".join(signed).removeprefix("+ ")
        denominator = " + ".join(f"`{amount}`" for amount in metric.per)
    if metric.more_is_better is None:
        harm = "of the event" if metric.name.startswith("EVENT") else "either"
    else:
        harm = "less" if metric.more_is_better else "more"
    return [f"`{metric.name}`", metric.unit, numerator, denominator, harm]


class TestConfiguration:
    def test_has_a_section_for_every_model(self) -> None:
        assert {title for title, _ in sections()} == set(MODELS)
        in_schema = set(json_schema()["$defs"]) | {"Document"}
        assert {item.__name__ for item in MODELS.values()} == in_schema

    @pytest.mark.parametrize("title", MODELS)
    def test_names_every_field_with_its_default(self, title: str) -> None:
        rows = table(dict(sections())[title], "| field | default | allowed | meaning |")
        documented = {row[0].strip("`"): row[1] for row in rows}
        assert documented == {name: shown(name, field) for name, field in MODELS[title].model_fields.items()}

    def test_explains_every_metric(self) -> None:
        rows = table(CONFIGURATION, "| metric | unit | numerator | denominator | harm | meaning |")
        known = [*metrics.MEASURED.values(), *metrics.COSTS.values(), metrics.THUMBS]
        known += [of("EVENT") for of in metrics.OF_EVENTS.values()]
        assert [row[:5] for row in rows] == [described(metric) for metric in known]
        assert all(row[5] for row in rows)
        needing = {row[0].strip("`") for row in rows if "Needs" in row[5]}
        assert needing == {metric.name for metric in known} - set(metrics.MEASURED)

    def test_lists_the_events_with_a_known_direction_of_harm(self) -> None:
        rows = table(CONFIGURATION, "| event | harm |")
        assert {name.strip("`"): harm == "less" for name, harm in rows} == metrics.MORE_IS_BETTER

    def test_explains_every_amount_that_metrics_are_made_of(self) -> None:
        amounts = {row[0].strip("`") for row in table(CONFIGURATION, "| amount | what is summed |")}
        known = [
            *metrics.MEASURED.values(),
            *metrics.COSTS.values(),
            *(of("EVENT") for of in metrics.OF_EVENTS.values()),
        ]
        used = {name for metric in known for name in (*dict(metric.parts), *metric.per, metric.counted) if name}
        of_these = {metrics.ENDED, metrics.BROKEN, metrics.LEFT, metrics.TIMED, metrics.DURATION_MS}
        assert amounts == used | of_these | {metrics.FAILED, metrics.FAILED_MS}

    def test_its_documents_are_valid(self) -> None:
        blocks = re.findall(r"```yaml\n(.*?)```", CONFIGURATION, re.DOTALL)
        assert len(blocks) == 5
        for block in blocks:
            parse(block)

    def test_its_errors_are_what_people_see(self) -> None:
        """The lines shown are those that the default document gives with these mistakes in it."""
        text = (DOCS.parent / "experiments.yaml").read_text()
        for old, new in (("salt:", "slat:"), ("weight: 95", "weight: 96.234")):
            assert text.count(old) == 1
            text = text.replace(old, new)
        with pytest.raises(DocumentError) as caught:
            parse(text, "experiments.yaml")
        (block,) = re.findall(r"```\n(experiments\.yaml:.*?)\n```", CONFIGURATION, re.DOTALL)
        assert str(caught.value) == block
