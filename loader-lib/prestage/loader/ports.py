"""What a framework must offer so that tensors can be made of a file's bytes."""

from __future__ import annotations

from typing import Any, Protocol

from prestage.loader.header import TensorInfo
from prestage.loader.mapped import MappedFile


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
