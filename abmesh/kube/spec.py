"""An Experiment's ``spec``, and the experiment that it stands for. Pure.

The server and the controller read objects through :mod:`abmesh.kube.objects`, which words what is wrong with them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Final, Literal, Self, TypeVar, cast

from pydantic import Field, model_validator

from abmesh.experiment import bucketing
from abmesh.experiment.answers import Answers, Event
from abmesh.experiment.errors import ConvertError
from abmesh.experiment.fields import Flag, Salt
from abmesh.experiment.model import Experiment
from abmesh.experiment.names import GROUPS
from abmesh.experiment.parts import IssueCookie, Match, Override, Segments, UnitSource, Variant
from abmesh.experiment.rollout import Rollout
from abmesh.experiment.secret_source import SecretSource
from abmesh.experiment.validation import Frozen, raise_all, refuse, repeated
from abmesh.kube.spec_parts import (
    SECRETS_FOLDER,
    Backend,
    Callers,
    CookieSpec,
    FileName,
    RolloutSpec,
    RouteRef,
    VariantSpec,
    backend_of,
)

_Model = TypeVar("_Model", bound=Frozen)

_SHARED: Final = ("match", "lane", "unit", "overrides", "segments", "answers", "events", "slices")
"""Fields that a file's experiment has under the same name and of the same type."""

_OF_VARIANTS: Final = ("name", "weight", "control", "timeout", "price")


class ExperimentSpec(Frozen):
    """What is tried on whom, and how the candidate is rolled out. Only people and their tools write it.

    Attributes:
        routes: your routes whose traffic is split, in this namespace. They are merged into, never edited.
        match: which requests of the routes the experiment applies to.
        lane: who assigns: abmesh's server (ext_proc), or the gateway itself (native), by one header; native needs Istio
            1.31, and no overrides, segments or issued cookie.
        unit: where to look for a user's identity; the first source that is present wins.
        issue_cookie: the cookie that gives an identity to clients without one.
        unassigned: who serves requests without a user: the control, or the route's own destinations; default: the
            control where the route sends to the candidate already, otherwise the route.
        callers: whose sidecars split, for a VirtualService of the mesh.
        variants: their order and weights decide which users each gets.
        overrides: requests that get a variant whatever their user.
        segments: groups of users that are reported separately.
        answers: where answers report tokens, refusals and cache hits.
        events: feedback that users send, and continuation.
        rollout: how a candidate is rolled out; leave it out to set weights by hand.
        slices: number of slices that each variant's users are cut into to estimate variances between users.
        salt: what users are hashed with; default: the Experiment's name. Changing it reshuffles all users.
        salt_file: name of a mounted file that holds a salt that clients must not know, instead of salt.
        manage: whether the controller writes Istio's configuration for the routes; with false, you apply what abmesh
            render istio prints.
    """

    routes: Annotated[tuple[RouteRef, ...], Field(min_length=1, max_length=16)]
    match: Match = Match()
    lane: Literal["ext_proc", "native"] = "ext_proc"
    unit: Annotated[tuple[UnitSource, ...], Field(min_length=1, max_length=10)]
    issue_cookie: CookieSpec | None = None
    unassigned: Literal["control", "route"] | None = None
    callers: Callers | None = None
    variants: Annotated[tuple[VariantSpec, ...], Field(min_length=2, max_length=20)]
    overrides: Annotated[tuple[Override, ...], Field(max_length=100)] = ()
    segments: Segments | None = None
    answers: Answers = Answers()
    events: Annotated[tuple[Event, ...], Field(max_length=20)] = ()
    rollout: RolloutSpec | None = None
    slices: Annotated[int, Field(ge=GROUPS, le=100, strict=True)] = 50
    salt: Salt | None = None
    salt_file: FileName | None = None
    manage: Flag = True

    @property
    def weights(self) -> dict[str, int]:
        """Basis points by variant, in the object's order."""
        return {variant.name: variant.weight for variant in self.variants}

    @model_validator(mode="after")
    def _of_objects_alone(self) -> Self:
        problems = list(repeated((route.label for route in self.routes), "route", "routes"))
        if self.salt is not None and self.salt_file is not None:
            problems.append(refuse("there is a secret salt already", "salt", allowed="either salt or salt_file"))
        if self.callers is not None and all(route.kind != "VirtualService" for route in self.routes):
            message = "only a VirtualService of the mesh has callers"
            problems.append(refuse(message, "callers", allowed="only with a route of kind VirtualService"))
        raise_all(problems)
        return self


def to_experiment(namespace: str, name: str, spec: ExperimentSpec) -> Experiment:
    """The experiment that a spec stands for, as a file would hold it.

    Args:
        namespace: the object's.
        name: the object's.
        spec: what people wrote; its weights are not those in force, see :mod:`abmesh.kube.in_force`.

    Raises:
        pydantic.ValidationError: a rule between fields is broken; :mod:`abmesh.kube.objects` words it.
    """
    fields: dict[str, Any] = {field: getattr(spec, field) for field in _SHARED if field in spec.model_fields_set}
    variants = [_variant(variant, namespace) for variant in spec.variants]
    fields |= {"name": f"{namespace}/{name}", "variants": tuple(variants)}
    if spec.salt is not None:
        # The default salt is the name without its namespace.
        fields["salt"] = spec.salt
    if spec.salt_file is not None:
        fields["secret_salt"] = _file(spec.salt_file)
    if spec.issue_cookie is not None:
        given = _given(spec.issue_cookie)
        keys = given.pop("key_files", ())
        fields["issue_cookie"] = _made(IssueCookie, given | ({"keys": tuple(map(_file, keys))} if keys else {}))
    if spec.rollout is not None:
        fields["rollout"] = _made(Rollout, {key: value for key, value in _given(spec.rollout).items() if key != "run"})
    return Experiment(**fields)


def _variant(variant: VariantSpec, namespace: str) -> Variant:
    given = {field: value for field, value in _given(variant).items() if field in _OF_VARIANTS}
    return _made(Variant, given | {"cluster": variant.backend.cluster(namespace)})


def _file(name: str) -> SecretSource:
    return SecretSource(file=f"{SECRETS_FOLDER}/{name}")


def _made(model: type[_Model], values: Mapping[str, Any]) -> _Model:
    """A model of values that its twin in the other form has checked by the same rules.

    They are not checked again: they are values already, and would be read as people write them, weights as percentages.
    """
    return cast("_Model", model.model_construct(**values))


def _given(model: Frozen) -> dict[str, Any]:
    """The fields of a model that were given, by name."""
    return {name: getattr(model, name) for name in type(model).model_fields if name in model.model_fields_set}


def from_experiment(
    namespace: str,
    experiment: Experiment,
    routes: Sequence[RouteRef],
    backends: Mapping[str, Backend] | None = None,
    without: Sequence[str] = (),
) -> ExperimentSpec:
    """The spec of an experiment of a file.

    Args:
        namespace: where the object will be.
        experiment: what the file holds.
        routes: whose traffic is split; a file does not know them.
        backends: the Services of the variants' clusters that are not called as Istio calls them.
        without: fields to leave out that an object has no place for.

    Raises:
        ConvertError: something has no place in an object; says what, and what to do about it.
    """
    problems: list[str] = []
    fields: dict[str, Any] = {field: getattr(experiment, field) for field in _SHARED}
    fields = {field: value for field, value in fields.items() if field in experiment.model_fields_set}
    if experiment.salt:
        fields["salt"] = experiment.salt
    if experiment.secret_salt is not None:
        fields["salt_file"] = _name_of(experiment.secret_salt, "secret_salt", problems)
    if (cookie := experiment.issue_cookie) is not None:
        given = _given(cookie)
        keys = given.pop("keys", ())
        names = [_name_of(key, f"issue_cookie.keys[{place}]", problems) for place, key in enumerate(keys)]
        named = [name for name in names if name is not None]
        fields["issue_cookie"] = _made(CookieSpec, given | ({"key_files": tuple(named)} if named else {}))
    if experiment.rollout is not None:
        fields["rollout"] = _made(RolloutSpec, _given(experiment.rollout))
    if experiment.ranges is not None and "ranges" not in without:
        problems.extend(_lost_ranges(experiment))
    variants = []
    for place, variant in enumerate(experiment.variants):
        backend = backend_of(variant.cluster, namespace) or (backends or {}).get(variant.cluster)
        if backend is None:
            problems.append(
                f"variants[{place}].cluster: {variant.cluster!r} is not Istio's name of a Service; say which Service "
                f"it is with --backend {variant.cluster}=SERVICE:PORT"
            )
            continue
        given = {field: value for field, value in _given(variant).items() if field in _OF_VARIANTS}
        variants.append(_made(VariantSpec, given | {"backend": backend}))
    if problems:
        raise ConvertError(tuple(f"{experiment.name}: {problem}" for problem in problems))
    return ExperimentSpec(**fields, routes=tuple(routes), variants=tuple(variants))


def _name_of(source: SecretSource, field: str, problems: list[str]) -> str | None:
    folder, _, name = (source.file or "").rpartition("/")
    if source.file is not None and folder == SECRETS_FOLDER:
        return name
    problems.append(
        f"{field}: an object names a file that is mounted below {SECRETS_FOLDER}, and this is {source.label}; put the "
        f"secret into the Secret that the chart mounts there, and write file: {SECRETS_FOLDER}/NAME here"
    )
    return None


def _lost_ranges(experiment: Experiment) -> Iterator[str]:
    """What is said of ranges that the weights alone would not give: an object's are in its status."""
    if bucketing.initial_ranges(experiment.weights) != experiment.effective_ranges:
        yield (
            "ranges: they belong to an object's status, which the controller writes, so users would change variant; if "
            "that may be, add --without ranges"
        )
