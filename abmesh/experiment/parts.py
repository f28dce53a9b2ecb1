"""The parts of an experiment: match, units, issued cookie, variants, overrides, segments; and clusters.

Pure; :mod:`abmesh.experiment.model` puts them together.
"""

from __future__ import annotations

import ipaddress
from datetime import timedelta
from typing import Annotated, Literal, Self

from pydantic import Field, SerializationInfo, ValidationInfo, field_serializer, field_validator, model_validator

from abmesh.experiment.fields import (
    ClusterName,
    CookieDomain,
    CookiePath,
    DnsLabel,
    Dollars,
    FilePath,
    Flag,
    Headers,
    Host,
    HostName,
    PathPrefix,
    QueryName,
    SegmentValue,
    Token,
)
from abmesh.experiment.forms import in_object
from abmesh.experiment.names import CONTINUED_ENDING, OTHER_SEGMENT
from abmesh.experiment.quantity_types import Duration, Weight
from abmesh.experiment.secret_source import SecretSource
from abmesh.experiment.validation import Frozen, header_map, header_name, raise_all, refuse, repeated


def _name_or_address(host: str) -> str:
    """Refuse colons anywhere but in an IPv6 address, which is usually a port."""
    if ":" in host:
        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            raise refuse("not a host", found=host, allowed="a host name or an IP address, without a port") from None
    return host


class Tls(Frozen):
    """How Envoy speaks TLS to a cluster.

    Attributes:
        sni: server name to request and verify; default: the cluster's host.
        ca_file: file of the certificates to trust, as Envoy sees the path.
    """

    sni: Host | None = None
    ca_file: FilePath = "/etc/ssl/certs/ca-certificates.crt"

    @field_validator("sni")
    @classmethod
    def _without_port(cls, value: str | None) -> str | None:
        return None if value is None else _name_or_address(value)


class Cluster(Frozen):
    """Where an upstream is; only rendering for Envoy needs it.

    Attributes:
        host: a host name or an IP address.
        port: the port.
        tls: whether Envoy uses TLS; ``true`` means TLS with its defaults.
    """

    host: Host
    port: Annotated[int, Field(ge=1, le=65535, strict=True)]
    tls: Tls | None = None

    @field_validator("host")
    @classmethod
    def _without_port(cls, value: str) -> str:
        return _name_or_address(value)

    @field_validator("tls", mode="before", json_schema_input_type=Tls | bool | None)
    @classmethod
    def _switch(cls, value: object) -> object:
        return (Tls() if value else None) if isinstance(value, bool) else value


class Match(Frozen):
    """Which requests an experiment applies to; every given condition must hold.

    Attributes:
        path_prefix: start of the path, compared like Envoy's ``prefix``.
        host: the request's host without its port, in any case.
        headers: headers with exactly these values.
    """

    path_prefix: PathPrefix = "/"
    host: HostName | None = None
    headers: Headers = Field(default={})

    _lower_headers = field_validator("headers", mode="before")(header_map)


class UnitSource(Frozen):
    """A place where a request may carry its unit; exactly one of the three.

    Attributes:
        header: name of a request header.
        cookie: name of a cookie.
        query: name of a query parameter.
    """

    header: str | None = None
    cookie: Token | None = None
    query: QueryName | None = None

    _lower_header = field_validator("header", mode="before")(header_name)

    @property
    def label(self) -> str:
        """The source in words: ``header x-user-id``."""
        return " ".join(f"{kind} {name}" for kind, name in self.model_dump(exclude_none=True).items())

    @model_validator(mode="after")
    def _one(self) -> Self:
        given = sorted(self.model_fields_set)
        if len(given) != 1 or getattr(self, given[0]) is None:
            raise refuse(
                "needs exactly one source", found=", ".join(given) or "none", allowed="header, cookie or query"
            )
        return self


class Cookie(Frozen):
    """What an issued cookie is in a file and in an object alike: all but its keys.

    Attributes:
        name: one of the cookies under ``unit``.
        max_age: how long the client keeps it.
        path: which paths it is sent with.
        domain: which domain it is sent to; default: only the host that set it.
        secure: whether it is sent over HTTPS only; ``auto`` means yes if the client used HTTPS.
        same_site: whether it is sent with requests from other sites; ``none`` needs ``secure: true``.
    """

    name: Token
    max_age: Duration
    path: CookiePath = "/"
    domain: CookieDomain | None = None
    secure: Literal["auto"] | bool = "auto"
    same_site: Literal["lax", "strict", "none"] = "lax"

    @property
    def marker(self) -> str:
        """Name of the cookie for sessions whose second request has been counted."""
        return self.name + CONTINUED_ENDING

    @field_validator("secure", mode="before", json_schema_input_type=Literal["auto", True, False])
    @classmethod
    def _switch(cls, value: object, info: ValidationInfo) -> object:
        if in_object(info):  # whose type cannot be "a text or true"
            if value not in ("auto", "true", "false"):
                raise refuse("not one of the allowed values", allowed='auto, "true" or "false", with the quotes')
            return value if value == "auto" else value == "true"
        if value != "auto" and not isinstance(value, bool):
            raise refuse("not one of the allowed values", allowed="auto, true or false")
        return value

    @field_serializer("secure")
    def _write_switch(self, value: str | bool, info: SerializationInfo) -> str | bool:
        return str(value).lower() if in_object(info) else value

    @field_validator("same_site", mode="before")
    @classmethod
    def _lower(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value

    @model_validator(mode="after")
    def _browsers_accept_it(self) -> Self:
        if self.same_site == "none" and self.secure is not True:
            raise refuse("browsers drop SameSite=None cookies that are not Secure", "secure", allowed="true")
        if self.max_age < timedelta(seconds=1):
            raise refuse("a cookie that expires at once keeps no user on a variant", "max_age", allowed="at least 1s")
        return self


class IssueCookie(Cookie):
    """The cookie that gives an identity to a client without one. It is always HttpOnly.

    Attributes:
        keys: secrets that authenticate the cookie: the first signs, all verify. Without any, clients may write their
            own cookies.
    """

    keys: Annotated[tuple[SecretSource, ...], Field(max_length=5)] = ()

    @model_validator(mode="after")
    def _different_keys(self) -> Self:
        raise_all(repeated((key.label for key in self.keys), "key", "keys"))
        return self


class Price(Frozen):
    """US dollars per million tokens.

    Attributes:
        input: for input tokens.
        output: for output tokens.
    """

    input: Dollars
    output: Dollars


def positive_timeout(value: timedelta | None) -> timedelta | None:
    """Refuse a variant's time limit of 0; for ``field_validator``."""
    if value is not None and value < timedelta(milliseconds=1):
        raise refuse("a time limit of 0", allowed="at least 1ms; leave it out for no limit")
    return value


class Variant(Frozen):
    """One version of the model.

    Attributes:
        name: the value of ``X-Model-Version``.
        cluster: the upstream that serves it, as Envoy names it.
        weight: share of the users.
        control: whether the other variants are compared with it, and unassigned traffic goes to it.
        timeout: time limit of a whole request; without it there is no limit.
        price: what its tokens cost, for the cost metrics.
    """

    name: DnsLabel
    cluster: ClusterName
    weight: Weight
    control: Flag = False
    timeout: Duration | None = None
    price: Price | None = None

    _positive_timeout = field_validator("timeout")(positive_timeout)


class Override(Frozen):
    """Requests that get a variant whatever their unit; never counted as evidence.

    Attributes:
        header: headers with exactly these values; all must match.
        variant: what these requests get.
    """

    header: Headers
    variant: str

    _lower_header = field_validator("header", mode="before")(header_map)

    @model_validator(mode="after")
    def _has_a_header(self) -> Self:
        if not self.header:
            raise refuse("needs at least one header", "header", allowed="{x-user-group: beta-testers}")
        return self


class Segments(Frozen):
    """Groups of users that are reported separately.

    Attributes:
        header: the request header that holds the segment.
        values: the segments; any other value counts as ``other``.
    """

    header: str
    values: Annotated[tuple[SegmentValue, ...], Field(min_length=1, max_length=20)]

    _lower_header = field_validator("header", mode="before")(header_name)

    @field_validator("header")
    @classmethod
    def _one_value(cls, value: str) -> str:
        if value == "cookie":
            message = "the cookie header holds all cookies, not a segment"
            raise refuse(message, found=value, allowed="a header that holds only a segment, such as x-user-segment")
        return value

    @model_validator(mode="after")
    def _values(self) -> Self:
        raise_all(repeated(self.values, "segment", "values"))
        if OTHER_SEGMENT in self.values:
            raise refuse(
                f"{OTHER_SEGMENT!r} is the segment of undeclared values",
                "values",
                self.values.index(OTHER_SEGMENT),
                found=OTHER_SEGMENT,
                allowed="any other name",
            )
        return self
