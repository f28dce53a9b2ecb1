"""What a pod may say of itself: fields of the downward API, and variables in commands. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

from tests.cluster.kubelet.api import Object
from tests.cluster.plane.network import NODE

NODE_NAME = "node-1"
_REFERENCE = re.compile(r"\$(\$|\((\w[\w.-]*)\))")
_MAP_ENTRY = re.compile(r"metadata\.(labels|annotations)\['(.+)'\]")


def field(pod: Object, path: str, address: str) -> str:
    """A field, as ``fieldRef`` names it.

    Args:
        pod: whose field.
        path: such as ``metadata.labels['app']``.
        address: of the pod.

    Raises:
        ValueError: the kubelet knows no such field.
    """
    metadata = pod["metadata"]
    if entry := _MAP_ENTRY.fullmatch(path):
        return str(metadata.get(entry[1], {}).get(entry[2], ""))
    if path in {"metadata.labels", "metadata.annotations"}:
        entries = metadata.get(path.partition(".")[2], {})
        return "\n".join(f'{key}="{value}"' for key, value in sorted(entries.items()))
    known = {
        "metadata.name": metadata["name"],
        "metadata.namespace": metadata["namespace"],
        "metadata.uid": metadata["uid"],
        "spec.nodeName": NODE_NAME,
        "spec.serviceAccountName": pod["spec"].get("serviceAccountName", "default"),
        "status.hostIP": NODE,
        "status.hostIPs": NODE,
        "status.podIP": address,
        "status.podIPs": address,
    }
    if path not in known:
        raise ValueError(f"no field {path} of a pod; there are {', '.join(sorted(known))}")
    return str(known[path])


def resource_field(container: Object, resource: str) -> str:
    """A request or limit, as ``resourceFieldRef`` names it, such as ``limits.cpu``; "0" if there is none.

    Whole CPUs and bytes, as the kubelet counts with its default divisor.
    """
    kind, _, name = resource.partition(".")
    text = str(container.get("resources", {}).get(kind, {}).get(name, "0"))
    units = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "k": 10**3, "M": 10**6, "G": 10**9}
    for unit, factor in units.items():
        if text.endswith(unit):
            return str(int(float(text.removesuffix(unit)) * factor))
    return str(-(-int(text[:-1]) // 1000)) if text.endswith("m") else text


def expand(text: str, variables: Mapping[str, str]) -> str:
    """Replace ``$(NAME)``; ``$$`` is a dollar sign, and an unknown name stays as it is."""

    def replaced(found: re.Match[str]) -> str:
        if found[1] == "$":
            return "$"
        return variables.get(found[2], found[0])

    return _REFERENCE.sub(replaced, text)
