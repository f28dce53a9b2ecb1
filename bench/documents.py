"""The documents that are served: one experiment, or many alike on paths of their own. Pure.

Called by :mod:`bench.running`, and by the tests of the Go server.
"""

from __future__ import annotations

from typing import Final, Literal

from abmesh.experiment.codec import parse
from abmesh.experiment.model import Document

PATH: Final = "/v1/models"

Lane = Literal["ext_proc", "native"]

_HEAD: Final = """\
version: 1
clusters:
  model-a: {{host: 127.0.0.1, port: {port}}}
  model-b: {{host: 127.0.0.1, port: {port}}}
experiments:
"""

_EXPERIMENT: Final = """\
  - name: chat-model{number}
    lane: {lane}
    match: {{path_prefix: {prefix}/v1/}}
    unit: [{{header: x-user-id}}, {{cookie: llm-session}}, {{query: user_id}}]
    issue_cookie: {{name: llm-session, max_age: 1h}}
    variants:
      - {{name: model-a, cluster: model-a, weight: 90, control: true, timeout: 60s}}
      - {{name: model-b, cluster: model-b, weight: 10, timeout: 60s}}
    overrides:
      - {{header: {{x-user-group: beta-testers}}, variant: model-b}}
    segments: {{header: x-user-segment, values: [power, casual]}}
"""


def text(port: int, *, experiments: int = 1, lane: Lane = "ext_proc") -> str:
    """The document as it is written.

    Args:
        port: of the upstream, which is both models.
        experiments: how many; all are alike but for name and path.
        lane: of all of them.
    """
    parts = [
        _EXPERIMENT.format(number=f"-{number}" if number else "", prefix=_prefix(number), lane=lane)
        for number in range(experiments)
    ]
    return _HEAD.format(port=port) + "".join(parts)


def document(port: int, *, experiments: int = 1, lane: Lane = "ext_proc") -> Document:
    """The document; see :func:`text`."""
    return parse(text(port, experiments=experiments, lane=lane), "the benchmark's document")


def paths(experiments: int) -> list[str]:
    """A path of every experiment, in their order."""
    return [f"{_prefix(number)}{PATH}" for number in range(experiments)]


def _prefix(number: int) -> str:
    return f"/{number}" if number else ""
