"""prestage.lock: which artifact each ref stood for when somebody decided so. TOML, because people review it and write comments.

    version = 1

    [[artifact]]
    ref = "hf://org/name@main"
    include = []
    exclude = []
    revision = "<commit>"                absent where the origin has none
    artifact = "sha256:…"
    files = 7
    bytes = 91403204

Sorted by ref and patterns, no times: the same versions give the same file. A ref in here is resolved at its locked commit, so a
branch that moves on does not matter; what has no commit must still be at its origin as it was, or in the store.
"""

from __future__ import annotations

import json
import os
import threading
import time
import tomllib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from prestage.cacher.digests import ArtifactId, artifact_id
from prestage.cacher.errors import Misconfigured, NotFound, PrestageError
from prestage.cacher.manifest import Manifest
from prestage.cacher.origins.hub_answers import COMMIT
from prestage.cacher.origins.ports import Origin, Selection
from prestage.cacher.refs import HfRef, Ref, parse_ref
from prestage.cacher.staging import Staged, Stager, Watcher, Wish
from prestage.cacher.store.disk import sync_directory, translated
from prestage.cacher.store.store import Store

VERSION = 1
FILE_NAME = "prestage.lock"
_HEAD = "# Made by `prestage lock`: which artifact each ref stands for. `prestage stage --lock` stages just these.\n"
_KEYS = {"ref", "include", "exclude", "revision", "artifact", "files", "bytes"}
Opener = Callable[[Ref], Origin]
Key = tuple[str, tuple[str, ...], tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Pin:
    """One locked artifact."""

    ref: str
    artifact: ArtifactId
    files: int
    bytes: int
    revision: str | None = None
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    @property
    def key(self) -> Key:
        """What it is the answer to."""
        return self.ref, self.include, self.exclude

    @property
    def selection(self) -> Selection:
        """Which files."""
        return Selection(self.include, self.exclude)

    @property
    def place(self) -> Ref:
        """Where just this version is asked for."""
        ref = parse_ref(self.ref)
        if isinstance(ref, HfRef) and self.revision is not None and COMMIT.fullmatch(self.revision):
            return HfRef(ref.repo, self.revision, self.artifact)
        return replace(ref, pin=self.artifact)


def pin_of(ref: Ref, selection: Selection, manifest: Manifest) -> Pin:
    """What is locked of a resolved ref."""
    return Pin(
        ref.name,
        manifest.artifact,
        len(manifest.files),
        manifest.size_bytes,
        manifest.revision,
        selection.include,
        selection.exclude,
    )


def render(pins: Iterable[Pin]) -> str:
    """The whole file."""
    return "\n".join([f"{_HEAD}version = {VERSION}\n", *(_table(pin) for pin in sorted(pins, key=lambda pin: pin.key))])


def _table(pin: Pin) -> str:
    rows: list[tuple[str, object]] = [("ref", pin.ref), ("include", list(pin.include)), ("exclude", list(pin.exclude))]
    rows += [("revision", pin.revision)] if pin.revision is not None else []
    rows += [("artifact", pin.artifact), ("files", pin.files), ("bytes", pin.bytes)]
    return "[[artifact]]\n" + "".join(f"{key} = {_value(value)}\n" for key, value in rows)


def _value(value: object) -> str:
    """JSON's strings, lists and integers are TOML's, but for one control character."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def parse(text: str, name: str = FILE_NAME) -> list[Pin]:
    """Read the file.

    Raises:
        Misconfigured: not that, of a newer version, or two answers to one question; says where.
    """
    try:
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as exc:
        raise Misconfigured(f"{name} is not TOML: {str(exc)[:200]}", hint="write it again: prestage lock REF") from exc
    if document.get("version") != VERSION:
        raise Misconfigured(f"{name} is of version {str(document.get('version'))[:20]}", hint="upgrade prestage, or lock again")
    tables = document.get("artifact", [])
    if not isinstance(tables, list) or document.keys() - {"version", "artifact"}:
        raise Misconfigured(f"{name} holds more than [[artifact]] tables", hint="write it again: prestage lock REF")
    pins = [_pin(table, f"{name}, artifact {number}") for number, table in enumerate(tables, 1)]
    if len({pin.key for pin in pins}) != len(pins):
        raise Misconfigured(f"{name} locks one ref twice", hint="remove one of the two")
    return pins


def _pin(table: object, where: str) -> Pin:
    try:
        if not isinstance(table, dict) or table.keys() - _KEYS:
            raise TypeError(f"unknown keys {sorted(table.keys() - _KEYS) if isinstance(table, dict) else ''}")
        ref = parse_ref(_text(table["ref"]))
        if ref.name != table["ref"]:
            raise TypeError(f"ref is to be written {ref.name}")
        include, exclude = (tuple(_text(item) for item in table[name]) for name in ("include", "exclude"))
        revision = _text(table["revision"]) if "revision" in table else None
        artifact = artifact_id(_text(table["artifact"]))
        return Pin(ref.name, artifact, _count(table["files"]), _count(table["bytes"]), revision, include, exclude)
    except (KeyError, TypeError, PrestageError) as exc:
        why = exc.message if isinstance(exc, PrestageError) else f"{type(exc).__name__}: {str(exc)[:160]}"
        raise Misconfigured(f"{where}: {why}", hint="write it again: prestage lock REF") from exc


def read(path: Path) -> list[Pin]:
    """The pins in a file.

    Raises:
        NotFound: there is none.
        Misconfigured: as `parse`, or it cannot be read.
    """
    try:
        return parse(path.read_text(encoding="utf-8"), str(path))
    except FileNotFoundError as exc:
        raise NotFound(f"there is no {path}", hint="make it: prestage lock REF") from exc
    except (OSError, UnicodeDecodeError) as exc:
        raise Misconfigured(f"{path} cannot be read", hint="check that file") from exc


def write(path: Path, pins: Iterable[Pin]) -> None:
    """Replace the file, whole or not at all.

    Raises:
        Full, Misconfigured, Unavailable: as the disk says.
    """
    beside = path.with_name(f".{path.name}.new")
    try:
        with beside.open("w", encoding="utf-8") as file:
            file.write(render(pins))
            file.flush()
            os.fsync(file.fileno())
        beside.rename(path)
        sync_directory(path.parent)
    except OSError as exc:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
        raise translated(exc, path) from exc


def resolved(wishes: Iterable[tuple[Ref, Selection]], opener: Opener) -> list[Pin]:
    """What each stands for now, at its origin."""
    return [pin_of(ref, selection, opener(ref).resolve(selection)) for ref, selection in wishes]


def moved(pins: Sequence[Pin], opener: Opener) -> list[tuple[Pin, Pin]]:
    """Locked and present answer of every ref that stands for something else by now."""
    now = resolved([(parse_ref(pin.ref), pin.selection) for pin in pins], opener)
    return [(old, new) for old, new in zip(pins, now, strict=True) if old.artifact != new.artifact]


def chosen(pins: Sequence[Pin], name: str | None) -> list[Pin]:
    """All, or those that `name` means: a ref as it is locked, or the last part of its name.

    Raises:
        NotFound: none.
    """
    if name is None:
        return list(pins)
    wanted = parse_ref(name).name if "://" in name else name
    found = [pin for pin in pins if wanted in (pin.ref, *_short_names(pin.ref))]
    if not found:
        known = ", ".join(dict.fromkeys(pin.ref for pin in pins)) or "nothing"
        raise NotFound(f"{name} is not locked", hint=f"locked: {known[:400]}")
    if len({pin.ref for pin in found}) > 1:
        raise Misconfigured(f"{name!r} means several", hint=f"name one: {', '.join(pin.ref for pin in found)}")
    return found


def _short_names(ref: str) -> tuple[str, str]:
    """`org/name` and `name`."""
    parsed = parse_ref(ref)
    path = parsed.repo if isinstance(parsed, HfRef) else ref.partition("://")[2].partition("?")[0].rstrip("/")
    return path, path.rpartition("/")[2]


def already_here(store: Store, pin: Pin) -> Staged | None:
    """What is locked, if it is whole here: no origin is asked. The store remembers it under the ref."""
    began = time.monotonic()
    try:
        if store.state(pin.artifact) != "staged":
            return None
    except NotFound:
        return None
    path, manifest = store.path(pin.artifact), store.manifest(pin.artifact)
    store.record_ref(pin.ref, pin.selection, pin.artifact)
    seconds, here = time.monotonic() - began, {"store": manifest.size_bytes}
    return Staged(pin.artifact, path, len(manifest.files), manifest.size_bytes, seconds, here, 0, manifest.weakness)


@contextmanager
def moved_is_told(pin: Pin) -> Iterator[None]:
    """Around a stage of what is locked: that the origin has another version by now is said in these words."""
    try:
        yield
    except NotFound as exc:
        if pin.artifact in exc.message:
            raise NotFound(
                f"{pin.ref} is not what {FILE_NAME} says any more: {exc.message}",
                hint="lock it again to take the new version: prestage lock; or import the locked one from where it is",
            ) from exc
        raise


def stage_pin(
    store: Store,
    stager: Stager,
    pin: Pin,
    opener: Opener,
    *,
    watcher: Watcher | None = None,
    cancel: threading.Event | None = None,
) -> Staged:
    """Make the store hold just what is locked; what is here already is asked of nobody. The store remembers it under the ref.

    Raises:
        NotFound: the origin has another version by now.
        PrestageError, Cancelled: as a stage.
    """
    if (here := already_here(store, pin)) is not None:
        (watcher or Watcher()).resolved(store.manifest(pin.artifact), 0)
        return here
    place = pin.place
    with moved_is_told(pin):
        staged = stager.stage(Wish(place, pin.selection), opener(place), watcher, cancel)
    store.record_ref(pin.ref, pin.selection, pin.artifact)
    return staged


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("not text")
    return value


def _count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise TypeError("not a count")
    return value
