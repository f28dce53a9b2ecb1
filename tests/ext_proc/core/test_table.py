from __future__ import annotations

from ext_proc.core.table import compile_document
from tests.ext_proc.samples import document


def test_only_changed_experiments_are_compiled_again() -> None:
    first = document({"name": "a"}, {"name": "b"})
    before = compile_document(first)
    changed = document({"name": "b", "salt": "another"}).experiments[0]
    after = compile_document(first.model_copy(update={"experiments": (changed, first.experiments[0])}), before)
    assert after.experiments[1] is before.experiments[0]
    assert (after.experiments[0].name, after.experiments[0].salt) == ("b", "another")
