"""What a framework must offer so that tensors can be made of a file's bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:  # importing this costs nothing: `safe_open` needs no plan
    from prestage.loader.dtypes import Dtype
    from prestage.loader.header import TensorInfo
    from prestage.loader.mapped import MappedFile
    from prestage.loader.memory.device import Buffer
    from prestage.loader.memory.region import Piece
    from prestage.loader.plan import Part


class Framework(Protocol):
    """Makes tensors of one framework. The bytes it is shown are verified by its caller."""

    def tensor(self, mapped: MappedFile, info: TensorInfo) -> Any:
        """The tensor, on the device that was asked for; holds the mapping as long as it shows it.

        Raises:
            UnsupportedDtype: the framework cannot express it.
        """

    def sliced(self, mapped: MappedFile, info: TensorInfo, index: object) -> Any:
        """`tensor[index]`, touching only the bytes of slicing.byte_span.

        Raises:
            BadIndex: or the framework's own IndexError, as the safetensors library has it there.
        """


class ModelFramework(Protocol):
    """Makes the tensors of a whole model."""

    def of_part(self, piece: Piece | None, part: Part) -> Any:
        """A writable tensor of the part's bytes, in the part's shape; None for an empty one. It shows the piece and keeps it, but
        for a part of several runs, which becomes a copy.

        Raises:
            UnsupportedDtype: as `tensor`.
        """

    def of_buffer(self, buffer: Buffer | None, part: Part, device: tuple[int, int]) -> Any:
        """The same of bytes on a device (as DLPack numbers it); the tensor keeps the buffer. Raises: UnsupportedDtype."""

    def cast(self, tensor: Any, dtype: object) -> Any:
        """A 16-, 32- or 64-bit float as `dtype`; anything else as it is: casting packed or scaled numbers would change them."""

    def refuse(self, part: Part) -> None:
        """Before anything is read. Raises: UnsupportedDtype: as `of_part`."""


class FullFramework(Framework, ModelFramework, Protocol):
    """What torch and numpy have: tensors of one file, and of a whole model."""


CASTABLE = frozenset({"F16", "BF16", "F32", "F64"})
"""What `cast` casts."""


def is_castable(dtype: Dtype) -> bool:
    """Whether `cast` may change it."""
    return dtype.code in CASTABLE
