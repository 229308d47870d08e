"""A checkpoint's safetensors files as one set of torch tensors: the one place where the integrations reach for the loader.

    model.safetensors.index.json, else model.safetensors, else every *.safetensors of the folder

Every tensor that is handed out owns its memory: no later one overwrites it, whoever keeps it (engines keep them and read them
again at a reload). On the CPU it maps the file, copy-on-write.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from prestage.loader import strict_json
from prestage.loader.access import TensorSlice, safe_open
from prestage.loader.errors import Closed, InvalidFile, UnknownTensor

if TYPE_CHECKING:
    import torch

Wanted = Callable[[str], bool]
VERIFY_MODES = ("off", "auto", "require")
"""From lax to strict."""
_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"


class Shards:
    """Files opened together; names are unique over all of them. Tensors and slices outlive it. Thread-safe but for `close`."""

    def __init__(
        self, files: Sequence[str], *, device: str | int = "cpu", names: Wanted | None = None, verify: str = "auto"
    ) -> None:
        """Open the files in this order; `names` says which tensors there are for the caller, the others are never read.

        Raises:
            OSError, InvalidFile, CorruptFile, VerifyUnavailable, Unsupported: as `safe_open`.
            InvalidFile: two files hold one name.
        """
        self._files: list[safe_open] = []
        self._places: dict[str, tuple[str, safe_open]] = {}
        for path in files:
            file = safe_open(path, "pt", device, verify=verify)
            self._files.append(file)
            for name in file.offset_keys():
                if name in self._places:
                    raise InvalidFile(
                        f"tensor {name!r} is in {self._places[name][0]!r} and in {path!r}",
                        hint="remove the one that does not belong to this checkpoint",
                    )
                if names is None or names(name):
                    self._places[name] = path, file

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Let the files go; what was handed out stays valid."""
        for file in self._files:
            file.__exit__(None, None, None)
        self._files.clear()
        self._places.clear()

    def keys(self) -> list[str]:
        """In the order of the files and of their bytes."""
        return list(self._places)

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __getitem__(self, name: str) -> torch.Tensor:
        """The whole tensor. Raises: UnknownTensor, UnsupportedDtype, CorruptFile, Closed."""
        tensor: torch.Tensor = self._file(name).get_tensor(name)
        return tensor

    def items(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Name and tensor, in the order of the bytes. Raises: as `__getitem__`."""
        for name in self.keys():
            yield name, self[name]

    def get_slice(self, name: str) -> TensorSlice:
        """The tensor still in its file: get_shape(), get_dtype(), [...]. Raises: UnknownTensor, Closed."""
        return self._file(name).get_slice(name)

    def _file(self, name: str) -> safe_open:
        if not self._files:
            raise Closed("The checkpoint is closed", hint="use it inside its with block")
        if name not in self._places:
            raise UnknownTensor(f"The checkpoint does not contain tensor {name}", hint="keys() lists what it holds")
        return self._places[name][1]


Weights = Shards
"""A checkpoint's tensors by name; a context manager."""
Slice = TensorSlice
"""A tensor not read yet: get_shape(), get_dtype(), [...]."""


def opened(folder: str, *, verify: str = "auto") -> Weights:
    """The checkpoint in `folder`. Raises: as `Shards`; FileNotFoundError: there is none."""
    return Shards(files_of(folder), verify=verify)


def weights(files: Sequence[str], *, names: Wanted | None = None, verify: str = "auto") -> Iterator[tuple[str, torch.Tensor]]:
    """Name and tensor of each tensor in `files` that `names` says yes to, in the order of the bytes. Raises: as `Shards`."""
    with Shards(files, names=names, verify=verify) as shards:
        yield from shards.items()


def first_dtypes(folder: str) -> list[str]:
    """The dtype codes of the checkpoint's first file, in the order of the names. Raises: as `opened`."""
    with safe_open(files_of(folder)[0], "pt", verify="off") as file:
        return [file.get_slice(name).get_dtype() for name in file.keys()]  # noqa: SIM118 - the names are sorted


def files_of(folder: str) -> list[str]:
    """The safetensors files that make up the checkpoint in `folder`, in their order.

    Raises:
        FileNotFoundError: there is none.
        InvalidFile: the index cannot be understood, or names a file that is not there.
    """
    if os.path.exists(_beside(folder, _INDEX)):  # noqa: PTH110 - pathlib costs the import 4 ms
        return _indexed(folder)
    names = sorted(name for name in os.listdir(folder) if name.endswith(".safetensors"))  # noqa: PTH208 - as above
    if not names:
        raise FileNotFoundError(2, "no safetensors file in this folder", folder)
    return [_beside(folder, name) for name in ([_SINGLE] if _SINGLE in names else names)]


def _indexed(folder: str) -> list[str]:
    with open(_beside(folder, _INDEX), "rb") as source:
        raw = source.read()
    try:
        table = strict_json.loads(raw)
        names = set(table["weight_map"].values())  # type: ignore[index] # what it is not is an error here
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise InvalidFile(f"{_beside(folder, _INDEX)!r} is no index of a checkpoint", hint="get another copy of it") from exc
    for name in names:
        if not isinstance(name, str) or os.path.basename(name) != name or not os.path.isfile(_beside(folder, name)):  # noqa: PTH113, PTH119
            raise InvalidFile(
                f"{_beside(folder, _INDEX)!r} names {name!r}, which is no file beside it", hint="get the rest of the checkpoint"
            )
    return [_beside(folder, name) for name in sorted(names)]


def _beside(folder: str, name: str) -> str:
    return os.path.join(folder, name)  # noqa: PTH118 - as above
