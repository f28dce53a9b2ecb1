"""The parts that an experiment is made of: matches, identities, variants, overrides, segments, clusters.

Pure; :mod:`abmesh.experiment.model` puts them together.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from abmesh.experiment.fields import (
    ClusterName,
    CookieDomain,
    CookiePath,
    DnsLabel,
    Dollars,
    Flag,
    HeaderValue,
    Host,
    HostName,
    PathPrefix,
    QueryName,
    SegmentValue,
    Token,
)
from abmesh.experiment.names import CONTINUED_ENDING, OTHER_SEGMENT
from abmesh.experiment.quantities import Duration, Weight
from abmesh.experiment.validation import Frozen, header_map, header_name, raise_all, refuse, repeated


class Tls(Frozen):
    """How Envoy speaks TLS to a cluster.

    Attributes:
        sni: server name to ask for and to verify; default: the cluster's host.
        ca_file: the certificates to trust, as Envoy sees the path.
    """

    sni: str | None = None
    ca_file: str = "/etc/ssl/certs/ca-certificates.crt"


class Cluster(Frozen):
    """Where an upstream is; only rendering needs it."""

    host: Host
    port: Annotated[int, Field(ge=1, le=65535, strict=True)]
    tls: Tls | None = None

    @field_validator("tls", mode="before", json_schema_input_type=Tls | bool | None)
    @classmethod
    def _switch(cls, value: object) -> object:
        return (Tls() if value else None) if isinstance(value, bool) else value


class Match(Frozen):
    """Which requests an experiment is about; all that are given must hold.

    Attributes:
        path_prefix: start of the path, compared as Envoy's ``prefix`` does.
        host: the request's host without its port, in any case.
        headers: exact values.
    """

    path_prefix: PathPrefix = "/"
    host: HostName | None = None
    headers: dict[str, HeaderValue] = Field(default={})

    _lower_headers = field_validator("headers", mode="before")(header_map)


class UnitSource(Frozen):
    """One place where a unit's identity may be found; exactly one of the three."""

    header: str | None = None
    cookie: Token | None = None
    query: QueryName | None = None

    _lower_header = field_validator("header", mode="before")(header_name)

    @property
    def label(self) -> str:
        """The source as a person names it: ``header x-user-id``."""
        return " ".join(f"{kind} {name}" for kind, name in self.model_dump(exclude_none=True).items())

    @model_validator(mode="after")
    def _one(self) -> Self:
        given = sorted(self.model_fields_set)
        if len(given) != 1 or getattr(self, given[0]) is None:
            raise refuse(
                "exactly one source is needed", found=", ".join(given) or "none", allowed="header, cookie or query"
            )
        return self


class IssueCookie(Frozen):
    """The cookie that carries a new identity to a client that has none. It is always HttpOnly.

    Attributes:
        max_age: how long the client keeps it.
        secure: whether it may travel over HTTPS only; ``auto`` says yes where the client used HTTPS.
        same_site: lax, strict or none; none needs ``secure: true``.
    """

    name: Token
    max_age: Duration
    path: CookiePath = "/"
    domain: CookieDomain | None = None
    secure: Literal["auto"] | bool = "auto"
    same_site: Literal["lax", "strict", "none"] = "lax"

    @property
    def marker(self) -> str:
        """Name of the cookie that marks a session whose second request has been counted."""
        return self.name + CONTINUED_ENDING

    @field_validator("secure", mode="before", json_schema_input_type=Literal["auto", True, False])
    @classmethod
    def _switch(cls, value: object) -> object:
        if value != "auto" and not isinstance(value, bool):
            raise refuse("not a switch", allowed="auto, true or false")
        return value

    @field_validator("same_site", mode="before")
    @classmethod
    def _lower(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value

    @model_validator(mode="after")
    def _browsers_accept_it(self) -> Self:
        if self.same_site == "none" and self.secure is not True:
            raise refuse("browsers drop SameSite=None cookies that are not Secure", "secure", allowed="true")
        if self.max_age < timedelta(seconds=1):
            raise refuse("a cookie that ends at once keeps nobody on a variant", "max_age", allowed="at least 1s")
        return self


class Price(Frozen):
    """US dollars per million tokens."""

    input: Dollars
    output: Dollars


class Variant(Frozen):
    """One version of the model.

    Attributes:
        cluster: the upstream that serves it, as Envoy names it.
        weight: share of the users, in basis points.
        control: whether it is what the others are compared with, and what unassigned traffic gets.
        timeout: total time limit of a request; none means that Envoy sets no limit.
    """

    name: DnsLabel
    cluster: ClusterName
    weight: Weight
    control: Flag = False
    timeout: Duration | None = None
    price: Price | None = None

    @field_validator("timeout")
    @classmethod
    def _positive(cls, value: timedelta | None) -> timedelta | None:
        if value is not None and value < timedelta(milliseconds=1):
            raise refuse("a time limit of nothing", allowed="at least 1ms; leave it out for no limit")
        return value


class Override(Frozen):
    """Requests that get a variant whatever their unit; never counted as evidence. All headers must match."""

    header: dict[str, HeaderValue]
    variant: str

    _lower_header = field_validator("header", mode="before")(header_map)

    @model_validator(mode="after")
    def _has_a_header(self) -> Self:
        if not self.header:
            raise refuse("at least one header is needed", "header", allowed="{x-user-group: beta-testers}")
        return self


class Segments(Frozen):
    """Groups of users to report apart; any value that is not declared counts as ``other``."""

    header: str
    values: Annotated[tuple[SegmentValue, ...], Field(min_length=1, max_length=20)]

    _lower_header = field_validator("header", mode="before")(header_name)

    @field_validator("header")
    @classmethod
    def _one_value(cls, value: str) -> str:
        if value == "cookie":
            message = "all cookies of a client together are no segment"
            raise refuse(message, found=value, allowed="a header that holds a segment alone, such as x-user-segment")
        return value

    @model_validator(mode="after")
    def _values(self) -> Self:
        raise_all(repeated(self.values, "segment", "values"))
        if OTHER_SEGMENT in self.values:
            raise refuse(
                f"{OTHER_SEGMENT!r} is what undeclared values count as",
                "values",
                self.values.index(OTHER_SEGMENT),
                found=OTHER_SEGMENT,
                allowed="any other name",
            )
        return self
