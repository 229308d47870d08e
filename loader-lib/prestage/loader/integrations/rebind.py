"""`accelerate`: inside a block, code that reads by the safetensors library reads by this loader, and stays as it is.

One name is exchanged: `safe_open`, in the safetensors library and wherever transformers, diffusers, accelerate and their kin
imported it. The library's own load_file and load_model call it by that name and so are served too.

The exchange is the process', not the thread's: whatever opens a file meanwhile, in any thread, gets the same tensors from this
loader. Blocks may nest and overlap in threads; the last to end puts everything back, also in modules first imported inside.

Tensors, errors and refusals are the library's: what this loader refuses the stock reader opens, with one log line; what it
raises can be caught as `safetensors.SafetensorError`. A corrupt file is never handed to the stock reader, with
verify="require" no file is.
Run with safetensors 0.8.0, transformers 5.24.0 and 4.57.6, accelerate 1.15.0, diffusers 0.39.0.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from prestage.loader.access import TensorSlice, safe_open
from prestage.loader.errors import InvalidFile, SafetensorError, Unsupported
from prestage.loader.integrations.shards import VERIFY_MODES

PACKAGES = ("safetensors", "transformers", "diffusers", "accelerate", "peft", "sentence_transformers", "huggingface_hub")
"""Whose modules are looked through for the name when a block begins."""

Opener = Callable[..., Any]


_lock = threading.Lock()
_blocks: list[str] = []
"""The `verify` of each open block."""
_said: set[tuple[str, str]] = set()
_stock: Opener | None = None


@contextlib.contextmanager
def accelerate(*, verify: str = "auto") -> Iterator[None]:
    """Have the safetensors library's readers served by this loader until the block ends, however it ends.

    `verify`: as `safe_open`; while several blocks are open, the strictest holds.

    Raises:
        ModuleNotFoundError: the safetensors library is not installed.
        Unsupported: an unknown `verify`.
    """
    if verify not in VERIFY_MODES:
        raise Unsupported(f"verify {verify!r} is invalid (expected one of: {', '.join(VERIFY_MODES)})")
    with _lock:
        if not _blocks:
            _install()
        _blocks.append(verify)
    try:
        yield
    finally:
        with _lock:
            _blocks.remove(verify)
            if not _blocks:
                _restore()


def opened(filename: str | os.PathLike[str], framework: str, *args: Any, **kw: Any) -> safe_open:
    """This loader's handle as the library would give it: same arguments, errors that are the library's too.

    Raises:
        SafetensorError: of this loader, and a subclass of the library's error of that name.
    """
    with library_errors():
        return _Served(filename, framework, *args, **kw)


def _install() -> None:
    global _stock
    import safetensors

    _stock = safetensors.safe_open
    _said.clear()
    _exchange(_stock, _open, PACKAGES)


def _restore() -> None:
    if _stock is not None:
        _exchange(_open, _stock, None)


def _exchange(old: object, new: object, packages: tuple[str, ...] | None) -> None:
    """Bind `new` to every module-level name that shows `old`, in these packages or everywhere. Triggers no lazy import."""
    for name, module in list(sys.modules.items()):
        if not isinstance(module, ModuleType) or module.__name__ == __name__:
            continue
        if packages is not None and name.partition(".")[0] not in packages:
            continue
        for attribute, value in dict(vars(module)).items():
            if value is old:
                setattr(module, attribute, new)


def _open(filename: Any, framework: Any, *args: Any, **kw: Any) -> Any:
    """What stands in the place of `safetensors.safe_open`; where somebody kept it beyond the block, the stock reader."""
    stock, blocks = _stock, list(_blocks)
    assert stock is not None, "made by _install"
    if not blocks:
        return stock(filename, framework, *args, **kw)
    verify = max(blocks, key=VERIFY_MODES.index)
    try:
        return opened(filename, framework, *args, verify=verify, **kw)
    except (Unsupported, InvalidFile, OSError, TypeError) as exc:
        if verify == "require":
            raise
        refusal = exc
    handle = stock(filename, framework, *args, **kw)
    _say(filename, refusal)
    return handle


def _say(filename: Any, refusal: Exception) -> None:
    """Once per folder and reason: a checkpoint of 200 shards is one fact, not 200."""
    path = os.fspath(filename)
    key = str(os.path.dirname(path)), type(refusal).__name__  # noqa: PTH120 - not at import: pathlib costs 4 ms
    with _lock:
        if key in _said:
            return
        _said.add(key)
    import logging

    logging.getLogger("prestage.loader").warning("stock reader", extra={"path": path, "reason": str(refusal)})


class _Served(safe_open):
    """The loader's handle, with the library's errors."""

    def keys(self) -> list[str]:
        with library_errors():
            return super().keys()

    def offset_keys(self) -> list[str]:
        with library_errors():
            return super().offset_keys()

    def metadata(self) -> dict[str, str] | None:
        with library_errors():
            return super().metadata()

    def get_tensor(self, name: str) -> Any:
        with library_errors():
            return super().get_tensor(name)

    def get_tensors(self) -> dict[str, Any]:
        with library_errors():
            return super().get_tensors()

    def get_slice(self, name: str) -> TensorSlice:
        with library_errors():
            return _ServedSlice(super().get_slice(name))


class _ServedSlice(TensorSlice):
    """A slice, with the library's errors."""

    def __init__(self, whole: TensorSlice) -> None:
        self.__dict__.update(whole.__dict__)

    def __getitem__(self, index: object) -> Any:
        with library_errors():
            return super().__getitem__(index)


@contextlib.contextmanager
def library_errors() -> Iterator[None]:
    """What this loader raises inside can be caught as `safetensors.SafetensorError` too; a missing file is told in its words."""
    try:
        yield
    except SafetensorError as error:
        told = _told(error)
        if told is error:
            raise
        raise told from error.__cause__
    except FileNotFoundError as error:
        if error.filename is None:
            raise
        raise FileNotFoundError(f"No such file or directory: {error.filename}") from error


def _told(error: SafetensorError) -> SafetensorError:
    """The same error as one that `except safetensors.SafetensorError` catches as well."""
    from safetensors import SafetensorError as Theirs

    if isinstance(error, Theirs):
        return error
    told = _both(type(error), Theirs).__new__(_both(type(error), Theirs), *error.args)
    told.__dict__.update(error.__dict__)
    if error.hint:
        told.add_note(error.hint)
    return told.with_traceback(error.__traceback__)


_told_kinds: dict[type[SafetensorError], type[SafetensorError]] = {}


def _both(kind: type[SafetensorError], theirs: type[Exception]) -> type[SafetensorError]:
    """A class of both families. Its text is the message alone, as theirs; the hint is a note."""
    if kind not in _told_kinds:
        ours = {
            "__module__": kind.__module__,
            "__doc__": kind.__doc__,
            "__str__": lambda error: error.message,
            # as the plain class: another process may not have the library
            "__reduce__": lambda error: (_plain, (kind, error.args, vars(error))),
        }
        _told_kinds[kind] = type(kind.__name__, (kind, theirs), ours)
    return _told_kinds[kind]


def _plain(kind: type[SafetensorError], args: tuple[object, ...], state: dict[str, object]) -> SafetensorError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(state)
    return error
