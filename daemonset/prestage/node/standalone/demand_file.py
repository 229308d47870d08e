"""demand.yaml: which models are wanted when. Windows are those of a StagingSchedule. Pure.

models:
  - ref: hf://org/name@main
    files: {include: ["*.safetensors", "*.json"]}
    windows:
      - {name: day, readySchedule: "0 8 * * 1-5", timeZone: Europe/Berlin, duration: 10h}
      - {name: launch, readyBy: "2026-12-01T09:00:00Z", duration: 2h}
  - ref: s3://models/base/
    windows: [{name: base}]                       # always
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import msgspec
import yaml

from prestage.api.reading import Invalid, checked
from prestage.api.schedules import Window
from prestage.cacher.errors import Misconfigured
from prestage.cacher.refs import Ref, parse_ref
from prestage.calendar import windows

MODELS_MAX: Final = 512
BYTES_MAX: Final = 1 << 20
_EXAMPLE: Final = "see docs/schedules.md, Without Kubernetes"


class _Files(msgspec.Struct, forbid_unknown_fields=True):
    include: list[str] = []
    exclude: list[str] = []


class _Model(msgspec.Struct, forbid_unknown_fields=True):
    ref: str
    windows: list[Window]
    files: _Files = msgspec.field(default_factory=_Files)


class _Document(msgspec.Struct, forbid_unknown_fields=True):
    models: list[_Model]


Key = tuple[str, tuple[str, ...], tuple[str, ...]]
"""Ref, include, exclude: what is staged, as a lock file names it."""


@dataclass(frozen=True, slots=True)
class Model:
    """One entry."""

    ref: Ref
    text: str
    """As it was written."""
    windows: tuple[tuple[str, windows.Window], ...]
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    @property
    def key(self) -> Key:
        """What is staged."""
        return self.ref.name, self.include, self.exclude


def parse(text: str, name: str = "demand.yaml") -> tuple[Model, ...]:
    """All of it, checked.

    Raises:
        Misconfigured: the first thing that is wrong, where, and what to write instead.
    """
    if len(text) > BYTES_MAX:
        raise Misconfigured(f"{name} is larger than a MiB", hint=_EXAMPLE)
    try:
        raw = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as exc:
        raise Misconfigured(f"{name} is no YAML: {' '.join(str(exc).split())[:200]}", hint=_EXAMPLE) from exc
    try:
        document = msgspec.convert(_plain(raw), _Document)
    except (msgspec.ValidationError, RecursionError) as exc:
        raise Misconfigured(f"{name}: {exc}", hint=_EXAMPLE) from exc
    if len(document.models) > MODELS_MAX:
        raise Misconfigured(f"{name} has {len(document.models)} models, at most {MODELS_MAX} can be", hint=_EXAMPLE)
    return tuple(_model(one, f"{name}, models[{number}]") for number, one in enumerate(document.models))


def _model(given: _Model, where: str) -> Model:
    made = list[tuple[str, windows.Window]]()
    for window in given.windows:
        try:
            made.append((checked(window).name, windows.spoken(window)))
        except (Invalid, ValueError) as exc:
            raise Misconfigured(f"{where}, window {window.name}: {exc}", hint=_EXAMPLE) from exc
    if not made:
        raise Misconfigured(f"{where} has no window: when is it wanted?", hint="windows: [{name: always}] is always")
    names = [name for name, _ in made]
    if len(set(names)) < len(names):
        raise Misconfigured(f"{where} has two windows of one name", hint="give each a name of its own")
    try:
        ref = parse_ref(given.ref)
    except Misconfigured as exc:
        raise Misconfigured(f"{where}: {exc.message}", hint=exc.hint) from exc
    return Model(ref, given.ref, tuple(made), tuple(given.files.include), tuple(given.files.exclude))


def _plain(given: object) -> object:
    """YAML reads moments by itself: as text they are checked like everything else."""
    if isinstance(given, Mapping):
        return {str(key): _plain(value) for key, value in given.items()}
    if isinstance(given, list):
        return [_plain(one) for one in given]
    return given.isoformat() if hasattr(given, "isoformat") else given
