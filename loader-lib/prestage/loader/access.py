"""`safe_open`: the safetensors library's lazy handle, with verification. Frameworks are imported when a handle asks for one."""

from __future__ import annotations

import os
from types import TracebackType
from typing import Any, Self

from prestage.loader import tensors
from prestage.loader.errors import Closed, UnknownTensor, Unsupported
from prestage.loader.header import TensorInfo
from prestage.loader.opened import OpenedFile
from prestage.loader.ports import Framework
from prestage.loader.slicing import byte_span

_BACKENDS = ("mmap", "pread")


class safe_open:  # noqa: N801 - the name is the safetensors library's
    """Opens a safetensors file lazily and returns tensors as asked. Thread-safe.

    Tensors and slices outlive the handle and its `with` block. With `backend="mmap"` they show the file's page cache
    (copy-on-write); with `"pread"` they are private copies, for files that somebody may rewrite in place.

    verify: "auto" checks the chunks that carry the header and each requested tensor against the node's sums where there are
    any (else logs "unverified" once per folder); "require" refuses a file without sums; "off" checks nothing. A chunk is
    checked once, when it is first needed.
    """

    def __init__(
        self,
        filename: str | os.PathLike[str],
        framework: str,
        device: str | int | None = "cpu",
        *,
        backend: str = "mmap",
        verify: str = "auto",
    ) -> None:
        """Map the file and check its header; `framework` is "pt" or "np" (or their longer names), imported here.

        Raises:
            FileNotFoundError, OSError: the file cannot be opened or read.
            InvalidFile: the header is not one that anybody should read.
            CorruptFile: size or header differ from the sums.
            VerifyUnavailable: "require" without sums, or sums that cannot be understood.
            Unsupported: an argument is wrong.
        """
        if backend not in _BACKENDS:
            raise Unsupported(f'backend "{backend}" is invalid (expected one of: "mmap", "pread")')
        path = os.fspath(filename)
        if not isinstance(path, str):
            raise TypeError(f"filename: {type(path).__name__!r} is not an instance of 'str'")
        self._framework = tensors.framework(framework, device, private=backend == "pread")
        self._file: OpenedFile | None = OpenedFile(path, verify)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file = None

    def keys(self) -> list[str]:
        """Names of the tensors, sorted."""
        return sorted(self._opened().header.tensors)

    def offset_keys(self) -> list[str]:
        """Names of the tensors in the order of their bytes."""
        return list(self._opened().header.tensors)

    def metadata(self) -> dict[str, str] | None:
        """The header's free-form texts; None where it has none."""
        metadata = self._opened().header.metadata
        return None if metadata is None else dict(metadata)

    def get_tensor(self, name: str) -> Any:
        """The whole tensor.

        Raises:
            UnknownTensor, UnsupportedDtype
            CorruptFile: a chunk that carries it is wrong; nothing of it was returned.
        """
        file = self._opened()
        info = _info(file, name)
        file.require(info.start, info.stop)
        return self._framework.tensor(file.mapped, info)

    def get_tensors(self) -> dict[str, Any]:
        """Every tensor by name, in the order of their bytes; the whole file is checked first, on several threads.

        Raises:
            CorruptFile: also where only bytes of one tensor are wrong; nothing was returned.
        """
        file = self._opened()
        file.require_all()
        return {name: self._framework.tensor(file.mapped, info) for name, info in file.header.tensors.items()}

    def get_slice(self, name: str) -> TensorSlice:
        """What can be sliced to have a part of the tensor; reads and checks nothing yet. Raises: UnknownTensor."""
        file = self._opened()
        return TensorSlice(file, self._framework, _info(file, name))

    def _opened(self) -> OpenedFile:
        if self._file is None:
            raise Closed("File is closed", hint="use it inside its with block")
        return self._file


class TensorSlice:
    """A tensor still in the file. `handle.get_slice(name)[2:5, ::2]` reads and checks only the rows that it takes."""

    def __init__(self, file: OpenedFile, framework: Framework, info: TensorInfo) -> None:
        self._file = file
        self._framework = framework
        self._info = info

    def get_shape(self) -> list[int]:
        """Of the whole tensor, in elements."""
        return list(self._info.shape)

    def get_dtype(self) -> str:
        """As the header writes it, e.g. "BF16"."""
        return self._info.dtype.code

    def __getitem__(self, index: object) -> Any:
        """Basic slicing.

        Raises:
            BadIndex: (numpy) or IndexError (torch): the index does not fit.
            CorruptFile: a chunk of the rows that it takes is wrong; nothing was returned.
        """
        self._file.require(*byte_span(self._info, index))
        return self._framework.sliced(self._file.mapped, self._info, index)


def _info(file: OpenedFile, name: str) -> TensorInfo:
    if not isinstance(name, str):
        raise TypeError(f"name: {type(name).__name__!r} object is not an instance of 'str'")
    try:
        return file.header.tensors[name]
    except KeyError:
        raise UnknownTensor(f"File does not contain tensor {name}", hint="keys() lists what it holds") from None
