"""What is odd about a file of results, in sentences. Pure; called by :mod:`abmesh.analysis.table_report`."""

from __future__ import annotations

from collections.abc import Sequence

from abmesh.analysis.layout import count, number
from abmesh.analysis.table import Table
from abmesh.inference.fixed import two_proportions

_RARE = 0.001
"""Below this part of the largest variant, a variant may be a misspelt name."""

_ALPHA = 0.01
"""Probability of a false alarm about values that are missing."""


def of_the_file(table: Table) -> list[str]:
    """Units in several variants, rows that were left out, names that may be misspelt, series that end early."""
    found = []
    if table.shared_users:
        shared, known = table.shared_users, sum(table.users.values()) - table.shared_users
        who = "users" if table.counted == "users" else f"values of {table.counted}"
        found.append(
            f"{count(shared)} of {count(known)} {who} {'is' if shared == 1 else 'are'} in more than one variant, which "
            f"an assignment that works never does; trust no comparison until you have found the cause. Each counts in "
            f"all of its variants, so differences look smaller than they are"
        )
    found += [*table.warnings, *_odd_names(table)]
    late = [name for name, end in table.ends.items() if end < max(table.ends.values())]
    if late:
        found.append(f"the rows of {', '.join(late)} end earlier than the others'")
    return found


def _odd_names(table: Table) -> list[str]:
    sizes = table.sizes()
    whole = f"{count(sum(sizes.values()))} {table.per}"
    found = [
        f"variant {name} has only {count(n)} of {whole}: is the name misspelt?"
        for name, n in sizes.items()
        if n < _RARE * max(sizes.values())
    ]
    spelt: dict[str, list[str]] = {}
    for name in table.variants:
        spelt.setdefault(name.casefold(), []).append(name)
    alike = [names for names in spelt.values() if len(names) > 1]
    return found + [f"variants {' and '.join(names)} differ only in their case: are they the same?" for names in alike]


def of_missing_values(tables: Sequence[Table], control: str) -> list[str]:
    """Values that are not there, which is harmless only where they are missing alike in all variants."""
    return [_missing(table, control) for table in tables if any(table.missing.values())]


def _missing(table: Table, control: str) -> str:
    known, lost = table.sizes(), table.missing
    rows = {name: known.get(name, 0.0) + lost[name] for name in lost}
    told = ", ".join(f"{name} {number(lost[name] / n, 'share')}" for name, n in rows.items() if n)
    whole = sum(lost.values())
    rest = "row has no value and is left out" if whole == 1 else "rows have no value and are left out"
    sentence = f"{table.metric}: {count(whole)} {rest} ({told})"
    p = [
        two_proportions(lost[control], rows[control], lost[name], rows[name], _ALPHA).p
        for name in lost
        if name != control
    ]
    if min(p, default=1.0) <= _ALPHA / max(len(p), 1):
        sentence += "; they are not missing alike, so what is left is no fair comparison: find out why"
    return sentence
