"""Istio's clusters: which a rule leads to, and whether those of the variants exist. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from abmesh.experiment.model import Experiment
from abmesh.mesh.istio.refusals import Reason, RefusedError
from abmesh.mesh.istio.resources import Destination, Resources, Rule, Service
from abmesh.mesh.istio.wanted import Settings
from abmesh.mesh.merge.check import Destination as Shares


@dataclass(frozen=True, slots=True)
class ClusterName:
    """Istio's name of a cluster, ``outbound|8000|SUBSET|HOST``, taken apart."""

    port: int
    subset: str
    host: str

    def __str__(self) -> str:
        return f"outbound|{self.port}|{self.subset}|{self.host}"


def parse(text: str) -> ClusterName | None:
    """Take Istio's name of a cluster apart; None if it is none."""
    parts = text.split("|")
    if len(parts) != 4 or parts[0] != "outbound" or not parts[1].isdecimal():
        return None
    return ClusterName(int(parts[1]), parts[2], parts[3])


def service_of(host: str, resources: Resources, settings: Settings) -> Service | None:
    """The Service with this full name; None if it was not read."""
    ending = f".svc.{settings.cluster_domain}"
    name, _, namespace = host.removesuffix(ending).partition(".")
    if not host.endswith(ending):
        return None
    return next((item for item in resources.services if (item.namespace, item.name) == (namespace, name)), None)


def port_of(destination: Destination, resources: Resources, settings: Settings, listener: int = 0) -> int:
    """The port that a destination leads to, as Istio chooses it; 0 if that cannot be told.

    Args:
        destination: of a rule.
        resources: what was read.
        settings: of the installation.
        listener: the port that callers use; 0 if that decides nothing.
    """
    if destination.port is not None:
        return destination.port
    service = service_of(destination.host, resources, settings)
    if service is not None and len(service.ports) == 1:
        return service.ports[0]
    return listener


def shares_of(rule: Rule, resources: Resources, settings: Settings, listener: int = 0) -> Shares:
    """Where a rule leads by itself.

    Raises:
        RefusedError: a destination's port cannot be told, or there is no destination.
    """
    if not rule.active:
        raise RefusedError(Reason.DESTINATION_UNKNOWN, "the rule has no destination")
    made = []
    for item in rule.active:
        port = port_of(item, resources, settings, listener)
        if not port:
            raise RefusedError(
                Reason.DESTINATION_UNKNOWN,
                f"the rule's destination {item.written or item.host} names no port, and its Service has several or was "
                "not found; add destination.port.number",
            )
        made.append((str(ClusterName(port, item.subset, item.host)), item.weight or 1))
    return Shares(tuple(made))


def check_backends(experiment: Experiment, resources: Resources, settings: Settings) -> None:
    """Refuse variants whose cluster Istio would not have: every user of theirs would get 503.

    Raises:
        RefusedError: with what is missing.
    """
    for variant in experiment.variants:
        cluster = parse(variant.cluster)
        what = f"variant {variant.name!r}"
        if cluster is None:
            raise RefusedError(
                Reason.BACKEND_MISSING, f"{what}: {variant.cluster!r} is not the name of a cluster of Istio's"
            )
        service = service_of(cluster.host, resources, settings)
        if service is None:
            raise RefusedError(Reason.BACKEND_MISSING, f"{what}: there is no Service {cluster.host}")
        namespace = experiment.name.partition("/")[0]
        if service.namespace != namespace and not _granted(service, namespace, resources):
            raise RefusedError(
                Reason.BACKEND_NOT_GRANTED,
                f"{what}: the Service {service.namespace}/{service.name} is in another namespace; there, a "
                f"ReferenceGrant must allow it, from kind Experiment of group abmesh.dev in {namespace!r} to kind "
                "Service",
            )
        if cluster.port not in service.ports:
            shown = ", ".join(map(str, service.ports)) or "none"
            raise RefusedError(
                Reason.BACKEND_MISSING,
                f"{what}: the Service {service.namespace}/{service.name} has no port {cluster.port}; it has: {shown}",
            )
        subsets = _subsets(cluster.host, resources)
        if cluster.subset and cluster.subset not in subsets:
            shown = ", ".join(sorted(subsets)) or "none"
            raise RefusedError(
                Reason.BACKEND_MISSING,
                f"{what}: no DestinationRule of {cluster.host} has a subset {cluster.subset!r}; there is: {shown}",
            )


def _granted(service: Service, namespace: str, resources: Resources) -> bool:
    return any(
        (grant.namespace, grant.granted) == (service.namespace, namespace) and grant.service in ("", service.name)
        for grant in resources.grants
    )


def _subsets(host: str, resources: Resources) -> frozenset[str]:
    """Those of all DestinationRules of a host, which Istio merges."""
    return frozenset(name for rule in resources.rules if rule.host == host for name in rule.subsets)


def hashing(hosts: Iterable[str], resources: Resources) -> tuple[dict[str, str], str]:
    """What the DestinationRules of some hosts, all of them merged, choose endpoints by.

    Returns:
        the rule's name by each cookie that one of them uses, and the name of a rule that hashes by anything.
    """
    wanted = set(hosts)
    rules = [rule for rule in resources.rules if rule.host in wanted]
    cookies = {cookie: f"{rule.namespace}/{rule.name}" for rule in rules for cookie in sorted(rule.cookies)}
    return cookies, next((f"{rule.namespace}/{rule.name}" for rule in rules if rule.hashes), "")
