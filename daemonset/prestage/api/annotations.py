"""Annotations on pods and workloads, parsed in one place. Pure.

    model.prestage.dev/<alias>: REF            a model by ref, or `ref:NAME`, `ref:NAMESPACE/NAME` for a StagedModel
    prestage.dev/<setting>: VALUE              how it is mounted, waited for, scheduled

Nothing is guessed: every mistake is answered with the annotation, what is wrong with it and an example, all of them at once.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

from prestage.api.texts import Cron, cron, duration_s, zone
from prestage.cacher.errors import Misconfigured
from prestage.cacher.refs import FileRef, HttpRef, NamedRef, parse_ref

PREFIX = "prestage.dev/"
MODEL_PREFIX = "model.prestage.dev/"
ARTIFACT_PREFIX = "artifact.prestage.dev/"
"""Written by admission into the volume's attributes; never by a user."""
ENABLED_LABEL = "prestage.dev/enabled"
WARM_CONDITION = "prestage.dev/Warm"
WARM_GATE = "prestage.dev/warm"
DRIVER = "prestage.dev"

MODELS_MAX = 32
_ALIAS = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?", re.ASCII)
_DNS_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?", re.ASCII)
_DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", re.ASCII)
_PATH = re.compile(r"(/[A-Za-z0-9_][A-Za-z0-9._-]*)+", re.ASCII)
_SYSTEM = (
    "/bin",
    "/boot",
    "/dev",
    "/etc",
    "/lib",
    "/lib64",
    "/proc",
    "/sbin",
    "/sys",
    "/usr",
    "/var/run/secrets",
    "/run/secrets",
)
"""Mounting over them breaks the container."""


class Layout(StrEnum):
    """How files are laid out. Flat: one model at the mount path itself."""

    DIRECTORY = "Directory"
    HUGGING_FACE = "HuggingFace"
    FLAT = "Flat"


class WaitFor(StrEnum):
    """Auto: a gate only where it helps. Mount: no gate, publish waits. None: demand only, no volume."""

    AUTO = "Auto"
    MOUNT = "Mount"
    NONE = "None"


class OnTimeout(StrEnum):
    """What becomes of a gated pod. Mount: wait in the mount at top priority."""

    MOUNT = "Mount"
    FAIL = "Fail"


@dataclass(frozen=True, slots=True)
class StagedModelName:
    """`ref:NAME` or `ref:NAMESPACE/NAME`; no namespace: the pod's own."""

    name: str
    namespace: str | None = None


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """One model of a pod: mounted as `alias`. `text` is what the user wrote."""

    alias: str
    source: NamedRef | StagedModelName
    text: str


@dataclass(frozen=True, slots=True)
class ReadySchedule:
    """When it must be ready, for how long and for how many."""

    cron: Cron
    text: str
    time_zone: str = "UTC"
    duration_s: float | None = None
    replicas: int | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """What annotations ask for. `models` is empty where there are none of ours."""

    models: tuple[ModelRequest, ...] = ()
    credentials: str | None = None
    mount_path: str = "/models"
    layout: Layout = Layout.DIRECTORY
    containers: tuple[str, ...] = ()
    """Empty: those that claim an accelerator, else the first that is no injected sidecar."""
    wait: WaitFor = WaitFor.AUTO
    gate_timeout_s: float = 150.0
    on_timeout: OnTimeout = OnTimeout.MOUNT
    schedule: ReadySchedule | None = None


@dataclass(frozen=True, slots=True)
class Mistake:
    """One thing wrong, for people: where, what, and what would be right."""

    annotation: str
    wrong: str
    example: str

    def __str__(self) -> str:
        return f"{self.annotation}: {self.wrong}; write for example {self.example}"


@dataclass(frozen=True, slots=True)
class Setting:
    """One annotation: how it is documented and shown by example."""

    name: str
    example: str
    about: str

    @property
    def shown(self) -> str:
        """As it stands in YAML."""
        return f'{PREFIX}{self.name}: "{self.example}"' if not self.example.isalpha() else f"{PREFIX}{self.name}: {self.example}"


SETTINGS = (
    Setting("credentials", "hf-token", "A Secret of the pod's namespace, for refs; a StagedModel carries its own."),
    Setting("mount-path", "/models", "Where models are mounted; /models/<alias> is the model. Default /models."),
    Setting(
        "layout",
        "Directory",
        "Directory (default), HuggingFace (the hub's cache layout too, and HF_HUB_CACHE), Flat (one model at the path itself).",
    ),
    Setting(
        "containers",
        "server",
        "Which containers get the mount, separated by commas. Default: those that claim an accelerator, else the first.",
    ),
    Setting(
        "wait",
        "Auto",
        "Auto (default: a gate only where it helps), Mount (no gate, the mount waits), None (demand only, no volume).",
    ),
    Setting("gate-timeout", "150s", "How long a gate may last, 1s to 1h. Default 150s."),
    Setting("on-timeout", "Mount", "When the gate times out: Mount (default: wait in the mount at top priority) or Fail."),
    Setting("ready-schedule", "0 8 * * 1-5", "On workloads: cron, when it must be READY (not when to start)."),
    Setting("time-zone", "Europe/Berlin", "Of ready-schedule. Default UTC."),
    Setting("duration", "10h", "How long it is needed, with ready-schedule."),
    Setting("replicas", "4", "For how many, with ready-schedule; default spec.replicas."),
)
_BY_NAME = {setting.name: setting for setting in SETTINGS}
_MODEL_EXAMPLE = f"{MODEL_PREFIX}llama: hf://org/name@main"

Parsed = TypeVar("Parsed")
Choice = TypeVar("Choice", bound=StrEnum)


class Mistakes(ValueError):
    """All that is wrong with one object's annotations."""

    def __init__(self, mistakes: tuple[Mistake, ...]) -> None:
        super().__init__("\n".join(map(str, mistakes)))
        self.mistakes = mistakes


def parse(annotations: Mapping[str, str]) -> Request:
    """Read ours, ignore the rest.

    Raises:
        Mistakes: everything that is wrong, in the order of the annotations' names.
    """
    reader = _Reader({key: value for key, value in sorted(annotations.items()) if is_ours(key)})
    request = reader.request()
    if reader.mistakes:
        raise Mistakes(tuple(sorted(reader.mistakes, key=lambda mistake: mistake.annotation)))
    return request


def is_ours(key: str) -> bool:
    """True for keys that this parser answers for."""
    return key.partition("/")[0] == "prestage.dev" or key.partition("/")[0].endswith(".prestage.dev")


class _Reader:
    """Collects mistakes while it reads."""

    def __init__(self, ours: Mapping[str, str]) -> None:
        self._ours = ours
        self.mistakes: list[Mistake] = []

    def request(self) -> Request:
        self._refuse_unknown()
        models = self._models()
        default = Request()
        request = Request(
            models=models,
            credentials=self._value("credentials", _name, None),
            mount_path=self._value("mount-path", _mount_path, default.mount_path),
            layout=self._value("layout", _choice(Layout), default.layout),
            containers=self._value("containers", _containers, default.containers),
            wait=self._value("wait", _choice(WaitFor), default.wait),
            gate_timeout_s=self._value("gate-timeout", _gate_timeout, default.gate_timeout_s),
            on_timeout=self._value("on-timeout", _choice(OnTimeout), default.on_timeout),
            schedule=self._schedule(),
        )
        self._refuse_contradictions(request)
        return request

    def _wrong(self, setting: str, wrong: str) -> None:
        self.mistakes.append(Mistake(PREFIX + setting, wrong, _BY_NAME[setting].shown))

    def _has(self, setting: str) -> bool:
        return PREFIX + setting in self._ours

    def _value(self, setting: str, read: Callable[[str], Parsed], default: Parsed) -> Parsed:
        text = self._ours.get(PREFIX + setting)
        if text is None:
            return default
        try:
            return read(text)
        except ValueError as exc:
            self._wrong(setting, str(exc))
            return default

    def _models(self) -> tuple[ModelRequest, ...]:
        found = []
        for key, text in self._ours.items():
            if not key.startswith(MODEL_PREFIX):
                continue
            try:
                found.append(_model(key.removeprefix(MODEL_PREFIX), text))
            except ValueError as exc:
                self.mistakes.append(Mistake(key, str(exc), _MODEL_EXAMPLE))
        if len(found) > MODELS_MAX:
            self.mistakes.append(
                Mistake(MODEL_PREFIX + "*", f"{len(found)} models, at most {MODELS_MAX} go into one pod", _MODEL_EXAMPLE)
            )
        return tuple(found)

    def _schedule(self) -> ReadySchedule | None:
        parsed = self._value("ready-schedule", _cron, None)
        time_zone = self._value("time-zone", _zone, "UTC")
        lasting = self._value("duration", _lasting, None)
        replicas = self._value("replicas", _replicas, None)
        if not self._has("ready-schedule"):
            for setting in ("time-zone", "duration", "replicas"):
                if self._has(setting):
                    self._wrong(setting, "it goes with prestage.dev/ready-schedule, which is not there")
            return None
        if not self._has("duration"):
            self._wrong("duration", "prestage.dev/ready-schedule needs it: for how long?")
        if parsed is None:
            return None
        return ReadySchedule(parsed, self._ours[PREFIX + "ready-schedule"], time_zone, lasting, replicas)

    def _refuse_unknown(self) -> None:
        for key in self._ours:
            if key.startswith(MODEL_PREFIX) or (key.startswith(PREFIX) and key.removeprefix(PREFIX) in _BY_NAME):
                continue
            if key.startswith(ARTIFACT_PREFIX):
                self.mistakes.append(Mistake(key, "only admission writes it: name a model instead", _MODEL_EXAMPLE))
                continue
            near = difflib.get_close_matches(key, [PREFIX + name for name in _BY_NAME] + [MODEL_PREFIX], 1, 0.5)
            setting = _BY_NAME.get(near[0].removeprefix(PREFIX)) if near else None
            self.mistakes.append(Mistake(key, "there is no such annotation", setting.shown if setting else _MODEL_EXAMPLE))

    def _refuse_contradictions(self, request: Request) -> None:
        if self._ours and not any(key.startswith(MODEL_PREFIX) for key in self._ours) and not self.mistakes:
            self.mistakes.append(Mistake(next(iter(self._ours)), "no model is named, so there is nothing to do", _MODEL_EXAMPLE))
        if request.layout is Layout.FLAT and len(request.models) > 1:
            self._wrong("layout", f"Flat is one model at the mount path, here are {len(request.models)}")
        if request.credentials and request.models and all(isinstance(one.source, StagedModelName) for one in request.models):
            wrong = "every model here is a StagedModel, which carries its own: remove it, or name a ref"
            self.mistakes.append(Mistake(PREFIX + "credentials", wrong, _MODEL_EXAMPLE))
        if request.wait is not WaitFor.AUTO:
            for setting in ("gate-timeout", "on-timeout"):
                if self._has(setting):
                    self._wrong(setting, f"with prestage.dev/wait: {request.wait} there is no gate")


def _model(alias: str, text: str) -> ModelRequest:
    if not _ALIAS.fullmatch(alias):
        raise ValueError("the name after the slash is a directory name: letters, digits, '-', '_' and '.', at most 63")
    if text.startswith("ref:"):
        return ModelRequest(alias, _staged_model(text.removeprefix("ref:")), text)
    try:
        ref = parse_ref(text)
    except Misconfigured as exc:
        raise ValueError(str(exc)) from exc
    if isinstance(ref, FileRef):
        raise ValueError("file:// is not served in a cluster")
    if isinstance(ref, HttpRef) and (ref.scheme != "https" or ref.query):
        raise ValueError("only https:// without a query: annotations are read by many, and a query may be a signature")
    return ModelRequest(alias, ref, text)


def _staged_model(text: str) -> StagedModelName:
    namespace, slash, name = text.rpartition("/")
    if not _DNS_NAME.fullmatch(name) or (slash and not _DNS_LABEL.fullmatch(namespace)):
        raise ValueError("a StagedModel is named ref:NAME or ref:NAMESPACE/NAME")
    return StagedModelName(name, namespace or None)


def _name(text: str) -> str:
    if not _DNS_NAME.fullmatch(text):
        raise ValueError(f"{text[:40]!r} is no name of a Secret")
    return text


def _mount_path(text: str) -> str:
    if not _PATH.fullmatch(text) or len(text) > 1024:
        raise ValueError(f"{text[:40]!r} is no absolute path of plain names")
    if any(text == taken or text.startswith(taken + "/") or taken.startswith(text + "/") for taken in _SYSTEM):
        raise ValueError(f"{text[:40]!r} would hide what the container needs")
    return text


def _containers(text: str) -> tuple[str, ...]:
    names = tuple(part.strip() for part in text.split(","))
    if wrong := [name for name in names if not _DNS_LABEL.fullmatch(name)]:
        raise ValueError(f"{wrong[0][:40]!r} is no name of a container")
    if len(set(names)) < len(names):
        raise ValueError("a container is named twice")
    return names


def _choice(choices: type[Choice]) -> Callable[[str], Choice]:
    def read(text: str) -> Choice:
        try:
            return choices(text)
        except ValueError:
            raise ValueError(f"{text[:40]!r} is none of {', '.join(choices)}") from None

    return read


def _gate_timeout(text: str) -> float:
    seconds = duration_s(text)
    if not 1 <= seconds <= 3600:
        raise ValueError(f"{text} is not between 1s and 1h")
    return seconds


def _lasting(text: str) -> float | None:
    seconds = duration_s(text)
    if not 60 <= seconds <= 366 * 86400:
        raise ValueError(f"{text} is not between 1m and a year")
    return seconds


def _replicas(text: str) -> int | None:
    if not (text.isascii() and text.isdigit() and len(text) <= 6) or int(text) > 100_000:
        raise ValueError(f"{text[:40]!r} is no number from 0 to 100000")
    return int(text)


def _cron(text: str) -> Cron | None:
    return cron(text)


def _zone(text: str) -> str:
    zone(text)
    return text
