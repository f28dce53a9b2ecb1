"""The environment of a container: of the image, of the cluster, and what the pod says."""

from __future__ import annotations

import base64
from collections.abc import Mapping

from tests.cluster.kubelet.api import Api, Object
from tests.cluster.kubelet.fields import expand, field, resource_field
from tests.cluster.plane.network import NODE
from tests.cluster.plane.settings import API_PORT

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class ConfigError(Exception):
    """A container cannot be started as its pod says: CreateContainerConfigError."""


async def container_environment(
    api: Api, pod: Object, container: Object, address: str, image: Mapping[str, str]
) -> dict[str, str]:
    """All variables of a container, by name.

    Raises:
        ConfigError: a ConfigMap, Secret or key is missing that is not optional.
    """
    # A container runtime sets HOME to / for a user that is in no passwd.
    variables = {"PATH": PATH, "HOME": "/", "HOSTNAME": pod["metadata"]["name"]} | dict(image)
    variables |= {"KUBERNETES_SERVICE_HOST": NODE, "KUBERNETES_SERVICE_PORT": str(API_PORT)}
    namespace = pod["metadata"]["namespace"]
    for source in container.get("envFrom", []):
        for kind, collection in (("configMapRef", "configmaps"), ("secretRef", "secrets")):
            if reference := source.get(kind):
                found = await read_data(api, namespace, collection, reference)
                variables |= {source.get("prefix", "") + key: value.decode() for key, value in found.items()}
    for entry in container.get("env", []):
        origin = entry.get("valueFrom", {})
        if reference := origin.get("fieldRef"):
            variables[entry["name"]] = field(pod, reference["fieldPath"], address)
        elif reference := origin.get("resourceFieldRef"):
            variables[entry["name"]] = resource_field(container, reference["resource"])
        elif reference := origin.get("configMapKeyRef") or origin.get("secretKeyRef"):
            collection = "configmaps" if "configMapKeyRef" in origin else "secrets"
            found = await read_data(api, namespace, collection, reference)
            if reference["key"] in found:
                variables[entry["name"]] = found[reference["key"]].decode()
            elif not reference.get("optional"):
                raise ConfigError(f"couldn't find key {reference['key']} in {collection} {reference['name']}")
        else:
            variables[entry["name"]] = expand(entry.get("value", ""), variables)
    return variables


async def read_data(api: Api, namespace: str, collection: str, reference: Object) -> dict[str, bytes]:
    """The entries of a ConfigMap or Secret; empty if it is missing and optional.

    Args:
        api: to ask.
        namespace: of the pod.
        collection: `configmaps` or `secrets`.
        reference: with ``name`` (or ``secretName``) and ``optional``.

    Raises:
        ConfigError: it is missing.
    """
    name = reference.get("name") or reference["secretName"]
    found = await api.find(f"/api/v1/namespaces/{namespace}/{collection}/{name}")
    if found is None:
        if reference.get("optional"):
            return {}
        raise ConfigError(f"{collection} {name!r} not found")
    data: dict[str, str] = found.get("data") or {}
    if collection == "secrets":
        return {key: base64.b64decode(value) for key, value in data.items()}
    binary: dict[str, str] = found.get("binaryData") or {}
    texts = {key: value.encode() for key, value in data.items()}
    return texts | {key: base64.b64decode(value) for key, value in binary.items()}
