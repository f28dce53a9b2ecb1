"""What outlives a deleted Experiment for seven days: weights, buckets and the place in its rollout.

GitOps prunes and applies again, people restore backups; neither may throw the users of a promoted candidate back. An
Experiment that comes back with the same salt and variants goes on where it was.

One ConfigMap for each Experiment holds that, and one more, the index, tells of which Experiments there are any, and
since when they are gone: the controller may not list ConfigMaps.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from abmesh.experiment.errors import StateError
from abmesh.experiment.model import Experiment
from controller.cluster.maps import Maps
from controller.cluster.names import INDEX, digest, evidence_map, journal_map, state_map
from controller.cluster.objects import Thing
from controller.cluster.status import Fields, status_of

KEPT_FOR: Final = timedelta(days=7)
KEY: Final = "state.json"

_FIELDS: Final = ("phase", "weights", "ranges", "candidateWeight", "plan", "stage", "lastDecision", "reason", "run")


class Kept:
    """Keeps what outlives Experiments.

    Args:
        maps: the ConfigMaps.
    """

    def __init__(self, maps: Maps) -> None:
        self._maps = maps
        self._written: dict[str, str] = {}
        self._index: dict[str, dict[str, str]] | None = None

    def forget(self) -> None:
        """Trust nothing that was read before."""
        self._written.clear()
        self._index = None

    def keep(self, thing: Thing, experiment: Experiment, salt: str = "") -> None:
        """Keep what is in force of an Experiment, if it has changed.

        Args:
            thing: the object.
            experiment: what it stands for.
            salt: the digest of its secret salt, if it has one.

        Raises:
            StateError: it cannot be written.
        """
        status = status_of(thing)
        if "stage" not in status:
            return
        content = json.dumps(
            {
                "identity": _identity(experiment, salt),
                "status": {name: status[name] for name in _FIELDS if name in status},
            },
            sort_keys=True,
        )
        name = experiment.name
        if self._written.get(name) != content:
            self._maps.write(state_map(name), name, thing["metadata"]["uid"], data={KEY: content})
            self._written[name] = content

    def of(self, experiment: Experiment, now: datetime, salt: str = "") -> Fields | None:
        """The status that an Experiment had before it was deleted; None if there is none, or it is another one now.

        Raises:
            StateError: the API server does not say.
        """
        gone = self._known().get(digest(experiment.name), {}).get("gone", "")
        if gone and now - datetime.fromisoformat(gone) > KEPT_FOR:
            return None
        present = self._maps.read(state_map(experiment.name))
        try:
            found = json.loads(((present or {}).get("data") or {}).get(KEY, "null"))
            same = found["identity"] == _identity(experiment, salt)
            return dict(found["status"]) if same else None
        except (KeyError, TypeError, ValueError):
            return None

    def tend(self, names: Mapping[str, Any], now: datetime) -> None:
        """Note which Experiments there are and which are gone, and delete what was kept long enough.

        Args:
            names: of all Experiments there are, from a list without trouble.
            now: the time.

        Raises:
            StateError: something cannot be written; it is tried again at the next call.
        """
        before = self._known()
        after = dict(before)
        for name in names:
            after[digest(name)] = {"name": name}
        for key, item in before.items():
            if item["name"] in names:
                continue
            gone = item.get("gone", "")
            if not gone:
                after[key] = {**item, "gone": now.isoformat()}
            elif now - datetime.fromisoformat(gone) > KEPT_FOR:
                for name in (evidence_map(item["name"]), journal_map(item["name"]), state_map(item["name"])):
                    self._maps.delete(name)
                self._written.pop(item["name"], None)
                del after[key]
        if after != before:
            self._maps.write(INDEX, "", "", data={key: json.dumps(item) for key, item in sorted(after.items())})
            self._index = after

    def _known(self) -> dict[str, dict[str, str]]:
        if self._index is None:
            present = self._maps.read(INDEX)
            found: dict[str, dict[str, str]] = {}
            for key, text in ((present or {}).get("data") or {}).items():
                try:
                    item = json.loads(text)
                    found[key] = {"name": str(item["name"]), **({"gone": str(item["gone"])} if "gone" in item else {})}
                except (KeyError, TypeError, ValueError) as error:
                    raise StateError(f"ConfigMap {INDEX} is damaged at {key}; delete it") from error
            self._index = found
        return self._index


def _identity(experiment: Experiment, salt: str) -> dict[str, Any]:
    """What must be the same for buckets to mean the same users."""
    secret = experiment.secret_salt is not None
    return {
        "salt": salt if secret else experiment.public_salt,
        "secret": secret,
        "variants": sorted(experiment.weights),
    }
