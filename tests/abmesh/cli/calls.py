"""Calls the entry point of the console script in this process. Used by the tests of every command."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from abmesh.cli.main import run


@dataclass(frozen=True)
class Called:
    """The result of a command."""

    code: int
    out: str
    err: str


@contextlib.contextmanager
def _arguments(arguments: tuple[str, ...], stdin: bytes) -> Iterator[None]:
    before = sys.argv, sys.stdin
    sys.argv, sys.stdin = ["abmesh", *arguments], io.TextIOWrapper(io.BytesIO(stdin))
    try:
        yield
    finally:
        sys.argv, sys.stdin = before


def call(*arguments: str, stdin: bytes = b"") -> Called:
    """Run ``abmesh`` with arguments and collect what it prints."""
    out, err = io.StringIO(), io.StringIO()
    with _arguments(arguments, stdin), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            run()
            code = 0
        except SystemExit as exit_:
            code = int(exit_.code or 0)
    return Called(code, out.getvalue(), err.getvalue())


def refused(called: Called, code: int, words: str) -> None:
    """Check that a command failed with one clear line that contains some words."""
    assert called.code == code, called
    assert called.err.startswith("abmesh: "), called
    assert called.err.count("\n") == 1, called
    assert words in called.err, called
    assert called.out == ""
