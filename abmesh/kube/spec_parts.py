"""The parts of an Experiment's ``spec`` that a file does not have. Pure; :mod:`abmesh.kube.spec` puts them together.

What a file has too is the same model: see :mod:`abmesh.experiment.forms` for how each form writes it.
"""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal, Self

from pydantic import BeforeValidator, Field, PlainSerializer, WithJsonSchema, field_validator, model_validator
from pydantic_core import PydanticCustomError

from abmesh.experiment.fields import DnsLabel, Flag, form
from abmesh.experiment.parts import Cookie, Price, positive_timeout
from abmesh.experiment.quantity_types import Duration, Weight
from abmesh.experiment.rollout import Rollout
from abmesh.experiment.validation import Frozen, raise_all, refuse, repeated

SECRETS_FOLDER: Final = "/etc/abmesh/secrets"
"""Where every process of abmesh has the files that ``saltFile`` and ``keyFiles`` name."""

RATE_FORM: Final = "requests per second, such as 8/s or 0.5/s"
_RATE: Final = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,6})?/s")

FileName = Annotated[
    str,
    form(
        r"^[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}$",
        "a file's name without its folder: 1 to 128 letters, digits, ., _ and -, not beginning with a dot",
        longest=128,
    ),
]
ObjectName = Annotated[
    str,
    form(
        r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$",
        "an object's name: 1 to 253 lower-case letters, digits, - and ., such as chat",
        longest=253,
    ),
]
RuleName = Annotated[
    str, form(r"^[\x21-\x7e]{1,253}$", "a rule's name: 1 to 253 printable ASCII characters without spaces", longest=253)
]
RunName = Annotated[
    str,
    form(
        r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,62})$",
        "1 to 63 letters, digits, ., _ and -, beginning with a letter or digit",
        longest=63,
    ),
]
LabelKey = Annotated[
    str,
    form(
        r"^([a-z0-9][-a-z0-9.]{0,252}/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$",
        "a label's key, such as app or example.com/app",
        longest=317,
    ),
]
LabelValue = Annotated[
    str,
    form(
        r"^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$",
        "a label's value: up to 63 letters, digits, -, _ and .",
        longest=63,
    ),
]


def _rate(value: object) -> float:
    if isinstance(value, float) and not isinstance(value, bool):
        return value
    if not isinstance(value, str) or not _RATE.fullmatch(value) or not float(value.removesuffix("/s")):
        raise PydanticCustomError("rate", "not a rate", {"allowed": RATE_FORM})
    return float(value.removesuffix("/s"))


Rate = Annotated[
    float,
    BeforeValidator(_rate),
    PlainSerializer(lambda rate: f"{rate:f}".rstrip("0").rstrip(".") + "/s"),
    WithJsonSchema({"type": "string", "pattern": f"^{_RATE.pattern}$", "maxLength": 18, "description": RATE_FORM}),
]
"""Written as ``8/s``, kept in requests per second."""


class RouteRef(Frozen):
    """A route of yours whose traffic is split; it is merged into, never edited.

    Attributes:
        kind: what kind of route it is.
        name: its name; it is in the Experiment's namespace.
        rule: the name of one of its rules; needed unless its host has a single rule.
    """

    kind: Literal["HTTPRoute", "VirtualService"]
    name: ObjectName
    rule: RuleName | None = None

    @property
    def label(self) -> str:
        """The route in words: ``HTTPRoute chat, rule v1``."""
        return f"{self.kind} {self.name}" + (f", rule {self.rule}" if self.rule else "")


class Selector(Frozen):
    """Pods, by their labels.

    Attributes:
        match_labels: labels that a pod has, all of them, with these values.
    """

    match_labels: Annotated[dict[LabelKey, LabelValue], Field(min_length=1, max_length=16)]


class Callers(Frozen):
    """Whose sidecars split, where the route is a VirtualService of the mesh; exactly one of the three.

    Attributes:
        namespaces: sidecars of these namespaces.
        selector: sidecars with these labels, in any namespace.
        all: every sidecar of the mesh.
    """

    namespaces: Annotated[tuple[DnsLabel, ...], Field(min_length=1, max_length=100)] | None = None
    selector: Selector | None = None
    all: Literal[True] | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        given = [name for name in ("namespaces", "selector", "all") if getattr(self, name) is not None]
        if len(given) != 1:
            allowed = "namespaces, selector or all"
            raise refuse("needs exactly one choice of callers", found=", ".join(given) or "none", allowed=allowed)
        raise_all(repeated(self.namespaces or (), "namespace", "namespaces"))
        return self


class Backend(Frozen):
    """The Service that serves a variant.

    Attributes:
        service: name of the Service.
        port: the Service's port.
        subset: the subset of the Service's DestinationRule that serves it, if a Service has several versions.
        namespace: namespace of the Service; default: the Experiment's. Another one needs a ReferenceGrant there.
    """

    service: DnsLabel
    port: Annotated[int, Field(ge=1, le=65535, strict=True)]
    subset: DnsLabel | None = None
    namespace: DnsLabel | None = None

    def cluster(self, namespace: str) -> str:
        """What Istio calls it, for an Experiment in a namespace."""
        host = f"{self.service}.{self.namespace or namespace}.svc.cluster.local"
        return f"outbound|{self.port}|{self.subset or ''}|{host}"


_CLUSTER: Final = re.compile(r"outbound\|([0-9]{1,5})\|([^|]*)\|([^.|]+)\.([^.|]+)\.svc\.cluster\.local")


def backend_of(cluster: str, namespace: str) -> Backend | None:
    """The backend that Istio calls a cluster; None if it is not Istio's name of a Service.

    Args:
        cluster: its name.
        namespace: the Experiment's, which the backend need not say.
    """
    found = _CLUSTER.fullmatch(cluster)
    if found is None:
        return None
    port, subset, service, where = found.groups()
    try:
        return Backend(
            service=service,
            port=int(port),
            subset=subset or None,
            namespace=None if where == namespace else where,
        )
    except ValueError:
        return None


class Capacity(Frozen):
    """What a variant can take.

    Attributes:
        per_replica: requests that one replica answers in a second. A step waits until there are enough replicas.
    """

    per_replica: Rate


class VariantSpec(Frozen):
    """One version of the model.

    Attributes:
        name: the value of the header X-Model-Version.
        backend: what serves it.
        weight: share of the users at the beginning of a rollout, or by hand.
        control: whether the other variants are compared with it, and unassigned traffic goes to it.
        timeout: time limit of a whole request; without it the route's own holds.
        price: what its tokens cost, for the cost metrics.
        min_ready: fewest ready replicas that it needs before it gets more users.
        capacity: what it can take, so that no step sends it more.
    """

    name: DnsLabel
    backend: Backend
    weight: Weight
    control: Flag = False
    timeout: Duration | None = None
    price: Price | None = None
    min_ready: Annotated[int, Field(ge=0, le=100_000, strict=True)] | None = None
    capacity: Capacity | None = None

    _positive_timeout = field_validator("timeout")(positive_timeout)


class CookieSpec(Cookie):
    """The cookie that gives an identity to a client without one. It is always HttpOnly.

    Attributes:
        key_files: names of mounted files with secrets that authenticate the cookie: the first signs, all verify.
            Without any, clients may write their own cookies.
    """

    key_files: Annotated[tuple[FileName, ...], Field(max_length=5)] = ()

    @model_validator(mode="after")
    def _different_keys(self) -> Self:
        raise_all(repeated(self.key_files, "key", "key_files"))
        return self


class RolloutSpec(Rollout):
    """The plan by which the candidate's weight is raised.

    Attributes:
        run: any text; another one than before starts a new run, at the weights of the variants.
    """

    run: RunName | None = None
