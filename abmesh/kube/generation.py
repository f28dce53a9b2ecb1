"""A number for what a server serves, so that the controller sees when all servers serve what it wrote. Pure.

A server answers it on ``/generation``; the controller computes it from the objects. Each experiment has its own, so
that one which only some servers accept does not hold up the others.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence

import xxhash

from abmesh.experiment.model import Experiment


def experiment_digest(uid: str, name: str, generation: int, ranges: Mapping[str, Sequence[Sequence[int]]]) -> int:
    """The number of one experiment: 52 bits, which a sample of Prometheus holds exactly.

    Args:
        uid: of the object: one that was deleted and applied again counts its generations from 1 again.
        name: ``namespace/name``.
        generation: the object's ``metadata.generation``, which every change of its spec raises.
        ranges: the buckets in force of each variant.
    """
    return _digest([uid, name, generation, {variant: [list(part) for part in ranges[variant]] for variant in ranges}])


def salt_digest(experiment: Experiment) -> str:
    """What the status keeps of a secret salt, so that another one is noticed; nothing of the salt can be read from it.

    Args:
        experiment: with its secret salt, of at least 128 bits.

    Raises:
        SecretError: the salt has not been read.
    """
    return hashlib.sha256(f"{experiment.name}\0{experiment.hash_salt}".encode()).hexdigest()[:32]


def generation_of(digests: Mapping[str, int]) -> int:
    """The number of everything that a server serves: 52 bits.

    Args:
        digests: of all accepted experiments, by name.
    """
    return _digest(dict(digests))


def _digest(content: object) -> int:
    return xxhash.xxh64_intdigest(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()) >> 12
