"""A file of many experiments, such as one row for each variant of each, as counts. Pure.

Called by :mod:`abmesh.cli.analyze_file`; :mod:`abmesh.analysis.many` compares them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from abmesh.analysis import columns
from abmesh.analysis.mapping import Asked, places
from abmesh.analysis.rows import MISSING, MOST_ROWS, Numbers, label
from abmesh.analysis.table_reader import opened

MOST_TESTS = 100_000
MOST_ARMS = 1_000_000
"""Most variants of all experiments together."""


@dataclass(slots=True)
class Arm:
    """What was counted of one variant.

    Attributes:
        n: requests.
        y: events among them.
    """

    n: float = 0.0
    y: float = 0.0


@dataclass(frozen=True, slots=True)
class Many:
    """The experiments of a file.

    Attributes:
        source: its name.
        by: the column that names the experiment.
        metric: the column of events.
        per: what n counts, as a heading.
        tests: the variants of each experiment, by name, in the order of the file.
        numbered: whether a variant is called after the place of its row in the experiment.
        left_out: rows without an experiment, a variant or a value.
    """

    source: str
    by: str
    metric: str
    per: str
    tests: Mapping[str, Mapping[str, Arm]]
    numbered: bool
    left_out: int


def read_many(lines: Iterable[str], source: str, asked: Asked) -> Many:
    """Read a file of many experiments.

    Without a column of variants each row is a variant, called after its place in the experiment: 1, 2 and so on.
    Without a column of requests each row is one.

    Args:
        lines: see :func:`abmesh.analysis.table_reader.read_table`.
        source: its name, for messages.
        asked: which column is what; with ``by``.

    Raises:
        DataError: it cannot be analysed; the message says where and what is allowed.
    """
    first, rows, where = opened(lines, source)
    at = places(first, asked, where)
    if len(at.metrics) != 1:
        where.refuse("--metric", "many metrics of many experiments", f"{len(at.metrics)}", "one metric with --by")
    for option, column in (("--segment", at.segment), ("--stage", at.stage), ("--covariate", at.covariate)):
        if column is not None:
            where.refuse(at.name(column), f"{option} goes without --by", allowed="--by without it")
    assert at.by is not None
    (metric,), by = at.metrics, at.by
    if at.n is None and not at.variants:
        where.refuse("", "each row would be a variant of one request", allowed="--variant COLUMN or --n COLUMN")
    reader, tests, left_out, arms = Numbers(at.name(metric)), dict[str, dict[str, Arm]](), 0, 0
    for number, row in enumerate(rows, start=1):
        if number > MOST_ROWS:
            where.refuse("", "too many rows", allowed=f"at most {MOST_ROWS}")
        parts = [row[index].strip() for index in (by, *at.variants)]
        y = reader.read(row[metric], where)
        amount = "1" if at.n is None else row[at.n].strip()
        if y != y or amount.casefold() in MISSING or any(part.casefold() in MISSING for part in parts):
            left_out += 1
            continue
        n = columns.whole(amount, "" if at.n is None else at.name(at.n), where)
        if not (0 <= y <= n and y == int(y)):
            message = "not a count of events" if at.n is not None else "not a share"
            allowed = f"a whole number of at most {n}" if at.n is not None else "true and false, yes and no, 0 and 1"
            where.refuse(at.name(metric), message, row[metric].strip(), allowed)
        test = tests.setdefault(label(parts[0], at.name(by), where), {})
        name = label(" / ".join(parts[1:]), at.name(at.variants[0]), where) if at.variants else f"{len(test) + 1}"
        if name not in test:
            arms += 1
            if len(tests) > MOST_TESTS or arms > MOST_ARMS:
                allowed = f"at most {MOST_TESTS} experiments and {MOST_ARMS} variants of them"
                where.refuse(at.name(by), "too many experiments", f"{len(tests)}", allowed)
            test[name] = Arm()
        test[name].n += n
        test[name].y += y
    if not any(len(test) > 1 for test in tests.values()):
        where.line = 0
        where.refuse(at.name(by), "no experiment has two variants", f"{len(tests)} of them", "at least one that has")
    per = "rows" if at.n is None else at.name(at.n)
    return Many(source, at.name(by), at.name(metric), per, tests, not at.variants, left_out)
