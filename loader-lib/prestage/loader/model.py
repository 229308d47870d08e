"""`Model`: a checkpoint that is being loaded, as a mapping from names to tensors of one framework."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

from prestage.loader.errors import Closed, UnknownTensor
from prestage.loader.ports import ModelFramework, is_castable
from prestage.loader.running import Running


class Model:
    """What `open_model` returns; use it in a `with` block. Thread-safe.

    Bytes arrive in the background, in the order of the files. `items()` hands tensors over as they land and forgets them;
    `model[name]` waits for one, is answered out of order, and is kept until `close`. Either way a tensor owns its memory: it
    stays valid after `close`, and what it alone holds is given back when it goes.
    """

    def __init__(self, running: Running, framework: ModelFramework, dtype: object) -> None:
        """For `open_model`."""
        for part in running.plan.parts.values():
            framework.refuse(part)
        self._running: Running | None = running
        self._plan = running.plan
        self._framework = framework
        self._dtype = dtype
        self._lock = threading.RLock()
        self._kept: dict[str, Any] = {}
        self._alive = weakref.WeakValueDictionary[str, Any]()
        self._handed: set[str] = set()
        self._told = False
        self._finalize = weakref.finalize(self, running.abandon)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def keys(self) -> list[str]:
        """Names of what was asked for, sorted; tied names that the files do not hold are not among them."""
        return sorted(self._plan.parts)

    def offset_keys(self) -> list[str]:
        """The same in the order of their bytes."""
        return list(self._plan.parts)

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __len__(self) -> int:
        return len(self._plan.parts)

    def __contains__(self, name: object) -> bool:
        return name in self._plan.parts or self._plan.checkpoint.aliases.get(str(name)) in self._plan.parts

    @property
    def metadata(self) -> dict[str, str]:
        """The headers' free-form texts, of all files together."""
        return dict(self._plan.checkpoint.metadata)

    @property
    def aliases(self) -> dict[str, str]:
        """Tied names that the files do not hold, and the tensor that each of them is. `model[alias]` is that very tensor."""
        return {name: kept for name, kept in self._plan.checkpoint.aliases.items() if kept in self._plan.parts}

    def __getitem__(self, name: str) -> Any:
        """The tensor; waits for its bytes. The same one every time.

        Raises:
            UnknownTensor
            CorruptFile, OSError, DeviceError: met by any reader of this load. From then on nothing more is returned.
            OverBudget: destination="private", and what is held already fills host_bytes.
            Closed: after `close`, or `items()` handed it over and it was let go.
        """
        kept = self._resolved(name)
        self._wait(kept)
        with self._lock:
            if kept not in self._kept:
                self._kept[kept] = self._tensor(kept)
            return self._kept[kept]

    def items(self) -> Iterator[tuple[str, Any]]:
        """(name, tensor) in the order of their bytes, each as soon as it has landed; the model forgets it, you hold the only
        reference.

        Raises:
            as `__getitem__`; what was yielded before stays valid.
        """
        for name in self._plan.parts:
            self._wait(name)
            with self._lock:
                tensor = self._kept.pop(name) if name in self._kept else self._tensor(name)
            yield name, tensor
            del tensor
        self._tell()

    def get_slice(self, name: str) -> ModelSlice:
        """What can be sliced as safetensors' `get_slice`; waits for the tensor when it is. Raises: UnknownTensor."""
        return ModelSlice(self, self._resolved(name))

    def report(self) -> dict[str, object]:
        """As `last_report` has it, as far as the load has come."""
        return self._opened().report().to_dict()

    def close(self) -> None:
        """Stop reading, give back what was read and not returned. Tensors that were returned stay. Idempotent."""
        with self._lock:
            running, self._running = self._running, None
            self._kept.clear()
        if running:
            running.close()
            self._finalize.detach()
            self._tell(running)

    def _wait(self, name: str) -> None:
        """Not under the lock: others may take what has landed, or close."""
        if name not in self._kept:
            self._opened().wait(name)

    def _resolved(self, name: str) -> str:
        if not isinstance(name, str):
            raise TypeError(f"name: {type(name).__name__!r} object is not an instance of 'str'")
        kept = name if name in self._plan.parts else self._plan.checkpoint.aliases.get(name, name)
        if kept not in self._plan.parts:
            raise UnknownTensor(
                f"{self._plan.checkpoint.name!r} does not contain tensor {name}", hint="keys() lists what was asked for"
            )
        return kept

    def _tensor(self, name: str) -> Any:
        running = self._opened()
        alive = self._alive.get(name)
        if alive is not None:
            return alive
        if name in self._handed:
            raise Closed(f"tensor {name!r} was handed over and let go", hint="keep it, or open the model again")
        part = self._plan.parts[name]
        if running.on_device:
            tensor = self._framework.of_buffer(running.buffer(name), part, running.device_number)
        else:
            tensor = self._framework.of_part(running.piece(name), part)
        if self._dtype is not None and is_castable(part.info.dtype):
            tensor = self._framework.cast(tensor, self._dtype)
        self._alive[name] = tensor
        self._handed.add(name)
        running.forget(name)
        return tensor

    def _opened(self) -> Running:
        if self._running is None:
            raise Closed("the model is closed", hint="use it inside its with block")
        return self._running

    def _tell(self, running: Running | None = None) -> None:
        running = running or self._running
        if running and not self._told:
            self._told = running.done
            running.tell()


class ModelSlice:
    """A tensor still on its way. `model.get_slice(name)[2:5]` waits for it and returns a part."""

    def __init__(self, model: Model, name: str) -> None:
        self._model = model
        self._part = model._plan.parts[name]

    def get_shape(self) -> list[int]:
        """Of the tensor as it was asked for, in elements."""
        return list(self._part.shape)

    def get_dtype(self) -> str:
        """As the header writes it, e.g. "BF16"; before any cast."""
        return self._part.info.dtype.code

    def __getitem__(self, index: Any) -> Any:
        """A view of the tensor. Raises: as `Model.__getitem__`; the framework's IndexError."""
        return self._model[self._part.info.name][index]
