"""Every error that abmesh raises on purpose.

    AbmeshError
    ├── DocumentError        the experiments document is refused; carries every Problem found
    ├── UnknownName          an experiment, variant or cluster that is not in the document
    ├── WeightsError         weights that cannot be applied (wrong sum, wrong variant, out of range)
    ├── StoreError           the document cannot be read or written
    │   └── Conflict         the document changed since it was read; read again and retry
    ├── SecretError          a secret that the document names cannot be read; never holds the secret
    ├── StateError           the controller's state or journal cannot be read or written
    ├── RefusedError         a command that the experiment's current state does not allow
    ├── SourceError          an Envoy's statistics could not be read
    ├── DataError            a file of results cannot be analysed
    ├── RenderError          the document lacks something that Envoy's configuration needs
    ├── ConvertError         what a file or an object holds has no place in the other
    ├── StartError           a command cannot do its work here: an address in use, a file that cannot be read or written
    └── SettingsError        a command-line flag or environment variable has a value that is not allowed

Any other exception that escapes is a bug. The command line prints one clear line for an AbmeshError and exits with
code 2 for a SettingsError, 1 for the others.
"""

from __future__ import annotations

from dataclasses import dataclass


class AbmeshError(Exception):
    """Base of everything that is raised on purpose; ``str(error)`` is what the user reads."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a document.

    Attributes:
        path: where, as people write it: ``experiments[0].variants[1].weight``; empty for the whole document.
        line: 1-based line in the source; 0 if there is none (an unreadable file).
        message: what is wrong, as a sentence without a full stop.
        found: the offending value as it is written, shortened; empty if there is none (a missing field), or if it
            may be a secret (a warm-up's headers and body).
        allowed: what would be accepted; empty if the message already says so.
    """

    path: str
    line: int
    message: str
    found: str = ""
    allowed: str = ""

    def describe(self, source: str) -> str:
        """One line: ``file:line: path: message; found X; allowed: Y``."""
        where = f"{source}:{self.line}" if self.line else source
        parts = [f"{where}: {self.path}: {self.message}" if self.path else f"{where}: {self.message}"]
        if self.found:
            parts.append(f"found {self.found}")
        if self.allowed:
            parts.append(f"allowed: {self.allowed}")
        return "; ".join(parts)


class DocumentError(AbmeshError):
    """The experiments document is refused as a whole; nothing of it takes effect."""

    def __init__(self, source: str, problems: tuple[Problem, ...]) -> None:
        self.source = source
        self.problems = problems
        super().__init__("\n".join(problem.describe(source) for problem in problems))


class UnknownName(AbmeshError):  # noqa: N818 - "raise UnknownName" says it all
    """A name that is not in the document; the message lists those that are."""

    def __init__(self, kind: str, found: str, known: tuple[str, ...]) -> None:
        self.kind = kind
        self.found = found
        self.known = known
        super().__init__(f"no {kind} named {found!r}; there is: {', '.join(known) or 'none'}")


class WeightsError(AbmeshError):
    """Weights that cannot be applied."""


class StoreError(AbmeshError):
    """The document cannot be read or written."""


class Conflict(StoreError):  # noqa: N818 - the field's name for a failed compare-and-swap
    """The document is no longer the one that the write was based on."""


class SecretError(AbmeshError):
    """A secret that the document names cannot be read or is too weak; the message never holds it."""


class StateError(AbmeshError):
    """The controller's state or journal cannot be read or written."""


class RefusedError(AbmeshError):
    """A command that the experiment's current state does not allow."""


class SourceError(AbmeshError):
    """An Envoy's statistics could not be read."""


class DataError(AbmeshError):
    """A file of results cannot be analysed; the message names line, column, what was found and is allowed."""


class RenderError(AbmeshError):
    """The document lacks something that Envoy's configuration needs."""


class ConvertError(AbmeshError):
    """Something that a file or an object holds has no place in the other; one line for each, with what to do."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        self.problems = problems
        super().__init__("\n".join(problems))


class StartError(AbmeshError):
    """The flags are fine, but the command cannot do its work here: an address in use, an unreadable file."""


class SettingsError(AbmeshError):
    """A flag or environment variable has a value that is not allowed."""
