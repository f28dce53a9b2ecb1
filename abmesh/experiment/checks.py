"""Checks: other people's numbers, which hold a rollout or roll it back by a threshold. Pure.

They stand outside of the error probability: nobody can say how often a threshold on a number of somebody else's is
passed by chance. :mod:`abmesh.experiment.rollout` puts them into a plan.
"""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Final, Literal, Self

from pydantic import Field, field_validator, model_validator

from abmesh.experiment.fields import DnsLabel, Headers, HttpUrl
from abmesh.experiment.quantities import LARGEST
from abmesh.experiment.quantity_types import Duration
from abmesh.experiment.validation import Frozen, header_map, own_headers, refuse

PLACEHOLDERS: Final = ("experiment", "candidate", "control")
"""What a query may say in double braces, to be replaced by that name."""

_BRACES: Final = re.compile(r"\{\{\s*([^{}]*?)\s*\}\}")

Threshold = Annotated[float, Field(ge=-LARGEST, le=LARGEST, allow_inf_nan=False, strict=True)]


class Check(Frozen):
    """A number or an answer from outside that the candidate must keep up; outside of the error probability.

    Either a Prometheus query with a limit, or a webhook, which passes with a 2xx status. It is asked while the
    candidate has users. Without an answer the rollout holds.

    Attributes:
        name: unique among the rollout's checks.
        prometheus: an instant query that gives one number. `{{experiment}}`, `{{candidate}}` and `{{control}}` stand
            for the names.
        address: base address of the Prometheus server; default: the controller's own, with `--source prometheus`.
        webhook: address that gets a POST of JSON; a 2xx status passes, any other fails.
        max: highest number that passes.
        min: lowest number that passes.
        headers: headers of the request, such as `authorization`.
        interval: time between two requests.
        timeout: time limit of a request.
        failures: failing answers in a row until the check acts.
        on_failure: what it does then: ``hold`` or ``rollback``.
    """

    name: DnsLabel
    prometheus: Annotated[str, Field(min_length=1, max_length=4096)] | None = None
    address: HttpUrl | None = None
    webhook: HttpUrl | None = None
    max: Threshold | None = None
    min: Threshold | None = None
    headers: Headers = Field(default={})
    interval: Duration = timedelta(seconds=30)
    timeout: Duration = timedelta(seconds=10)
    failures: Annotated[int, Field(ge=1, le=1000, strict=True)] = 3
    on_failure: Literal["hold", "rollback"] = "hold"

    _lower_headers = field_validator("headers", mode="before")(header_map)
    _own_headers = field_validator("headers")(own_headers)

    def query(self, experiment: str, candidate: str, control: str) -> str:
        """The query with the names in it; they are DNS labels, perhaps with / between, so nothing needs quoting."""
        assert self.prometheus is not None
        names = dict(zip(PLACEHOLDERS, (experiment, candidate, control), strict=True))
        return _BRACES.sub(lambda found: names[found[1]], self.prometheus)

    @field_validator("address")
    @classmethod
    def _base_address(cls, value: str | None) -> str | None:
        if value is not None and "?" in value:
            raise refuse(
                "the query's path is added to its end", allowed="an address without ?; a key fits into headers"
            )
        return value

    @field_validator("prometheus")
    @classmethod
    def _known_placeholders(cls, value: str | None) -> str | None:
        for name in _BRACES.findall(value or ""):
            if name not in PLACEHOLDERS:
                allowed = ", ".join(f"{{{{{known}}}}}" for known in PLACEHOLDERS)
                raise refuse("unknown placeholder", found=f"{{{{{name}}}}}", allowed=allowed)
        return value

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        given = [kind for kind in ("prometheus", "webhook") if getattr(self, kind) is not None]
        if len(given) != 1:
            message, found = "a check asks either Prometheus or a webhook", " and ".join(given) or "neither"
            raise refuse(message, found=found, allowed="prometheus or webhook")
        limits = [name for name in ("max", "min") if getattr(self, name) is not None]
        if self.prometheus is not None and not limits:
            raise refuse("a number needs a limit", found="neither max nor min", allowed="max, min or both")
        if self.webhook is not None and (limits or self.address is not None):
            field = limits[0] if limits else "address"
            raise refuse("a webhook's status is its whole answer", field, allowed="only with prometheus")
        if self.max is not None and self.min is not None and self.min > self.max:
            raise refuse("no number is at least min and at most max", "min", allowed=f"at most max, {self.max:g}")
        return self

    @model_validator(mode="after")
    def _in_time(self) -> Self:
        if not timedelta(seconds=1) <= self.interval <= timedelta(days=1):
            raise refuse("not a possible interval", "interval", allowed="1s to 1d")
        if not timedelta(milliseconds=100) <= self.timeout <= timedelta(minutes=5):
            raise refuse("not a possible time limit", "timeout", allowed="100ms to 5m")
        return self
