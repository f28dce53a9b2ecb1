"""As whom a container runs, from the security contexts of its pod and of itself. Pure."""

from __future__ import annotations

from tests.cluster.kubelet.api import Object
from tests.cluster.kubelet.environment import ConfigError
from tests.cluster.kubelet.sandbox import Identity


def security_context(pod: Object, container: Object) -> Object:
    """The pod's, overridden by the container's."""
    return {**pod["spec"].get("securityContext", {}), **container.get("securityContext", {})}


def identity(pod: Object, container: Object, image_user: int) -> Identity:
    """As whom a container runs.

    Args:
        pod: that it belongs to.
        container: as the pod has it.
        image_user: uid where neither says one.

    Raises:
        ConfigError: it would run as root and must not.
    """
    security = security_context(pod, container)
    user: int = security.get("runAsUser", image_user)
    if security.get("runAsNonRoot") and user == 0:
        raise ConfigError("container has runAsNonRoot and image will run as root")
    groups = [*security.get("supplementalGroups", []), *([security["fsGroup"]] if "fsGroup" in security else [])]
    return Identity(
        user,
        security.get("runAsGroup", user),
        groups,
        no_new_privileges=security.get("allowPrivilegeEscalation") is False,
        no_capabilities="ALL" in security.get("capabilities", {}).get("drop", []),
    )
