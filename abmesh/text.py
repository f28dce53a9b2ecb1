"""Other people's text made fit for our messages: on one line, and not too long. Pure; anything may import it."""

from __future__ import annotations


def one_line(text: object) -> str:
    """A message of several lines, such as a refused document's, on one: the lines with ``|`` between them."""
    return " | ".join(str(text).splitlines())


def shorten(text: object, longest: int = 200) -> str:
    """A text on one line of at most ``longest`` characters: runs of whitespace become one space, a cut ends in dots."""
    shown = str(text)
    line = " ".join(shown[: 20 * longest].split())  # a text of megabytes is not worth splitting
    return line if len(line) <= longest and len(shown) <= 20 * longest else line[: longest - 3] + "..."


def quoted(text: str, longest: int = 60) -> str:
    """A text in quotes, with unprintable characters escaped; only its first ``longest`` characters, then dots."""
    return repr(text) if len(text) <= longest else f"{text[:longest]!r}..."


def error_place(error: BaseException) -> str:
    """An error's type and the line that raised it, without its message, which may hold what a client sent."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return type(error).__name__
    return f"{type(error).__name__} at {trace.tb_frame.f_code.co_filename.rpartition('/')[2]}:{trace.tb_lineno}"
