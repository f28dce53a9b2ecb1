"""The volumes of a pod: folders that follow ConfigMaps, Secrets, tokens and the pod's own fields, or are empty."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path

from tests.cluster.kubelet.api import Api, Object
from tests.cluster.kubelet.environment import ConfigError, read_data
from tests.cluster.kubelet.fields import field

_LINK = "..data"


class Volumes:
    """The volumes of one pod.

    Attributes:
        pod: as it is now; its labels and annotations may change.
    """

    def __init__(self, api: Api, pod: Object, address: str, folder: Path) -> None:
        self.pod = pod
        self._api = api
        self._address = address
        self._folder = folder
        self._tokens: dict[tuple[str, str], tuple[bytes, float]] = {}

    def path(self, name: str) -> Path:
        """Folder of a volume."""
        return self._folder / name

    async def write(self) -> None:
        """Bring every volume up to date.

        Raises:
            ConfigError: what a volume shows is missing, or the volume is of an unknown kind.
            ApiError: the API server refused.
        """
        group = self.pod["spec"].get("securityContext", {}).get("fsGroup")
        for volume in self.pod["spec"].get("volumes", []):
            folder = self.path(volume["name"])
            if not folder.exists():
                folder.mkdir(parents=True)
                folder.chmod(0o777)
                if group is not None and "emptyDir" in volume:
                    _give(folder, group)
            if "emptyDir" not in volume:
                write_atomically(folder, await self._contents(volume))

    async def _contents(self, source: Object) -> dict[str, bytes]:
        """Files by path, of a volume or of one source of a projected one."""
        if "projected" in source:
            files: dict[str, bytes] = {}
            for part in source["projected"]["sources"]:
                files |= await self._contents(part)
            return files
        if token := source.get("serviceAccountToken"):
            return {token["path"]: await self._token(token)}
        if downward := source.get("downwardAPI"):
            fields = ((item["path"], item["fieldRef"]["fieldPath"]) for item in downward.get("items", []))
            return {path: field(self.pod, name, self._address).encode() for path, name in fields}
        for kind, collection in (("configMap", "configmaps"), ("secret", "secrets")):
            if reference := source.get(kind):
                namespace = self.pod["metadata"]["namespace"]
                return _chosen(await read_data(self._api, namespace, collection, reference), reference)
        raise ConfigError(f"the stand-in kubelet knows no volume like {sorted(source)}")

    async def _token(self, wanted: Object) -> bytes:
        """A token bound to the pod, renewed after 80% of its life as the kubelet does."""
        key = (wanted.get("audience", ""), wanted["path"])
        known = self._tokens.get(key)
        if known is None or time.time() >= known[1]:
            metadata = self.pod["metadata"]
            seconds = wanted.get("expirationSeconds", 3600)
            bound = {"apiVersion": "v1", "kind": "Pod", "name": metadata["name"], "uid": metadata["uid"]}
            spec: Object = {"expirationSeconds": seconds, "boundObjectRef": bound}
            if key[0]:
                spec["audiences"] = [key[0]]
            account = self.pod["spec"].get("serviceAccountName", "default")
            path = f"/api/v1/namespaces/{metadata['namespace']}/serviceaccounts/{account}/token"
            answer = await self._api.call("POST", path, {"spec": spec})
            known = (answer["status"]["token"].encode(), time.time() + 0.8 * seconds)
            self._tokens[key] = known
        return known[0]


def _chosen(data: Mapping[str, bytes], reference: Object) -> dict[str, bytes]:
    if "items" not in reference:
        return dict(data)
    missing = [item["key"] for item in reference["items"] if item["key"] not in data]
    if missing and not reference.get("optional"):
        raise ConfigError(f"references non-existent config key: {', '.join(missing)}")
    return {item["path"]: data[item["key"]] for item in reference["items"] if item["key"] in data}


def write_atomically(folder: Path, files: Mapping[str, bytes]) -> None:
    """Show files in a folder, all at one moment, as the kubelet does: a new folder takes the old one's link."""
    link = folder / _LINK
    old = folder / link.readlink() if link.is_symlink() else None
    if old is not None and _read(old) == files:
        return
    new = folder / f"..{time.time_ns()}"
    for path, content in files.items():
        (new / path).parent.mkdir(parents=True, exist_ok=True)
        (new / path).write_bytes(content)
    new.mkdir(exist_ok=True)
    staged = folder / "..staged"
    staged.symlink_to(new.name)
    staged.rename(link)
    wanted = {path.partition("/")[0] for path in files}
    for name in wanted:
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(f"{_LINK}/{name}")
    for entry in folder.iterdir():
        if not entry.name.startswith("..") and entry.name not in wanted:
            entry.unlink()
    if old is not None:
        shutil.rmtree(old)


def _read(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def _give(folder: Path, group: int) -> None:
    """Let a group own a folder and what is made in it, where this user may say so."""
    try:
        os.chown(folder, -1, group)
    except OSError:
        return
    folder.chmod(0o2777)
