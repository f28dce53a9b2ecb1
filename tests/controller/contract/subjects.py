"""The two sets of stores, as the contract tests see them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from abmesh.experiment.errors import StateError
from abmesh.kube.errors import Unreachable
from controller.rollout import commands
from controller.rollout.commit import Committer
from controller.settings import Settings
from controller.state.documents import Documents
from controller.state.evidence import EvidenceStore
from controller.state.journal import Journal
from controller.state.lease import Lease
from controller.state.locks import URGENT_SECONDS
from controller.state.ports import Evidence, Leadership, Recorder, StateReader
from controller.state.transition import Transitions
from tests.controller.cluster.support import ClusterWorld, spec
from tests.controller.support import World, world

Step = Callable[[str, Callable[[], Any]], Any]
"""Runs one input or output, or does something else instead; gets its name."""


class Subject(Protocol):
    """A controller's stores with a rollout in them, that Envoys feed."""

    name: str
    world: Any

    @property
    def states(self) -> StateReader: ...

    @property
    def documents(self) -> Documents: ...

    @property
    def evidence(self) -> Evidence: ...

    @property
    def recorder(self) -> Recorder: ...

    @property
    def transitions(self) -> Transitions: ...

    def lease(self) -> Leadership:
        """A lease of another process."""

    def edit(self, weight: int) -> None:
        """Somebody writes the candidate's weight, in percent."""

    def operate(self, action: str) -> None:
        """An operator's command."""

    def each_step(self, step: Step) -> None:
        """Let every input and output of the next controller process go through ``step``; it starts afresh."""

    def healed(self) -> None:
        """The reverse; another process starts."""

    def break_writes(self) -> None:
        """Nothing can be written, until :meth:`healed`."""


class FileSubject:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.world: World = world(folder)
        self.name = "chat"
        self._plain = self.world.documents
        self._patched: list[tuple[Any, str, Any]] = []

    @property
    def states(self) -> StateReader:
        return self.world.states

    @property
    def documents(self) -> Documents:
        return self.world.documents

    @property
    def evidence(self) -> Evidence:
        return EvidenceStore(self.world.folder)

    @property
    def recorder(self) -> Recorder:
        return Journal(self.world.folder)

    @property
    def transitions(self) -> Transitions:
        return Committer(self.world.states, Journal(self.world.folder), self.world.documents, URGENT_SECONDS)

    def lease(self) -> Leadership:
        return Lease(self.world.folder)

    def edit(self, weight: int) -> None:
        path = self.folder / "experiments.yaml"
        current = self._plain.read().document.experiment(self.name).weights["model-b"] // 100
        text = path.read_text()
        text = text.replace(f"cluster: a, weight: {100 - current},", f"cluster: a, weight: {100 - weight},")
        path.write_text(text.replace(f"cluster: b, weight: {current}}}", f"cluster: b, weight: {weight}}}"))

    def operate(self, action: str) -> None:
        settings = Settings(self.folder / "experiments.yaml", state_dir=self.world.folder)
        getattr(commands, action)(settings, self.name, by="ada", now=self.world.now)

    def each_step(self, step: Step) -> None:
        from controller.state.states import StateStore

        documents = _Stepping(self._plain, step, ("read", "write_weights"))
        self.world.documents = documents
        for owner, method in ((StateStore, "write"), (Journal, "append")):
            original = getattr(owner, method)
            self._patched.append((owner, method, original))
            setattr(owner, method, _stepped(original, f"{owner.__name__}.{method}", step))
        self.world.restart()

    def healed(self) -> None:
        for owner, method, original in reversed(self._patched):
            setattr(owner, method, original)
        self._patched.clear()
        self.world.documents = self._plain
        self.world.restart()

    def break_writes(self) -> None:
        def step(name: str, action: Callable[[], Any]) -> Any:
            if "write" in name or "append" in name:
                raise StateError("the disk is full")
            return action()

        self.each_step(step)


class ClusterSubject:
    def __init__(self, subject: ClusterWorld) -> None:
        self.world = subject
        self.name = subject.name
        self._plain = subject.client
        self.requests = 0

    @property
    def states(self) -> StateReader:
        self.world.watch()
        return self.world.stores.states

    @property
    def documents(self) -> Documents:
        self.world.watch()
        return self.world.stores.documents

    @property
    def evidence(self) -> Evidence:
        self._lead()
        return self.world.stores.evidence

    @property
    def recorder(self) -> Recorder:
        self._lead()
        return self.world.stores.journal

    @property
    def transitions(self) -> Transitions:
        self._lead()
        return self.world.stores.transitions

    def lease(self) -> Leadership:
        other = ClusterWorld.__new__(ClusterWorld)
        other.__dict__.update(self.world.__dict__)
        other.start()
        return other.stores.lease

    def edit(self, weight: int) -> None:
        self.world.edit({"variants": spec(weight)["variants"]})

    def operate(self, action: str) -> None:
        self.requests += 1
        self.world.ask(f"request-{self.requests}", action)

    def each_step(self, step: Step) -> None:
        methods = ("get", "list", "create", "replace", "merge_patch", "delete")
        self.world.client = _Stepping(self._plain, step, methods)  # type: ignore[assignment]  # it has what it wraps
        self.world.restart()

    def healed(self) -> None:
        self.world.client = self._plain
        self.world.restart()

    def break_writes(self) -> None:
        def step(name: str, action: Callable[[], Any]) -> Any:
            if name in ("create", "replace", "merge_patch"):
                raise Unreachable("no answer")
            return action()

        assert self.world.stores.lease.held
        self.world.stores.transitions._client = _Stepping(self._plain, step, ("merge_patch",))  # type: ignore[assignment]
        self.world.stores.journal._maps._client = _Stepping(self._plain, step, ("create", "replace"))  # type: ignore[assignment]

    def _lead(self) -> None:
        self.world.watch()
        if not self.world.stores.lease.held:
            assert self.world.stores.lease.acquire()


class _Stepping:
    """Something whose methods of some names go through a step."""

    def __init__(self, inner: Any, step: Step, methods: tuple[str, ...]) -> None:
        self._inner, self._step, self._methods = inner, step, methods

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if name not in self._methods:
            return found
        return lambda *args, **options: self._step(name, lambda: found(*args, **options))


def _stepped(original: Any, name: str, step: Step) -> Any:
    return lambda *args, **options: step(name, lambda: original(*args, **options))
