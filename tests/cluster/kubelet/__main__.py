"""The stand-in kubelet's process: `python -m tests.cluster.kubelet KUBECONFIG FOLDER IMAGES`.

It runs in a process namespace of its own (tests/cluster/node.py), so that the kernel ends every pod with it.
"""

from __future__ import annotations

import asyncio
import json
import signal
import ssl
import sys
from collections.abc import Mapping
from pathlib import Path

import aiohttp

from tests.cluster import images
from tests.cluster.kubelet.api import Api, Object
from tests.cluster.kubelet.node import Kubelet
from tests.cluster.kubelet.shared import Node

READY = "ready"
"""File in the folder that says that the node is registered."""


async def serve(config: Object, folder: Path, table: Mapping[str, images.Image]) -> None:
    """Run pods until SIGTERM.

    Args:
        config: a kubeconfig.
        folder: for files of pods.
        table: images by name.
    """
    cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
    context = ssl.create_default_context(cafile=cluster["certificate-authority"])
    unchecked = aiohttp.TCPConnector(ssl=False, limit=0, force_close=True)
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context, limit=0)) as session,
        # The kubelet checks no certificate of a probe.
        aiohttp.ClientSession(connector=unchecked) as probing,
    ):
        api = Api(session, cluster["server"], user["token"])
        kubelet = Kubelet(Node(api, probing, folder, table, _say))
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        await kubelet.register()
        (folder / READY).touch()
        tasks = {asyncio.create_task(kubelet.follow()), asyncio.create_task(stop.wait())}
        ended, others = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in others:
            task.cancel()
        await kubelet.close()
        for task in ended:
            task.result()  # what kept the kubelet from going on


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    asyncio.run(serve(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]), images.load(Path(sys.argv[3]))))
