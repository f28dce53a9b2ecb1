"""What the pods of the node share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from tests.cluster.images import Image
from tests.cluster.kubelet.api import Api


@dataclass(frozen=True, slots=True)
class Node:
    """What pods share.

    Attributes:
        api: the API server.
        session: for probes.
        folder: for files of pods.
        images: by name.
        say: tells what goes wrong.
    """

    api: Api
    session: aiohttp.ClientSession
    folder: Path
    images: Mapping[str, Image]
    say: Callable[[str], None]
