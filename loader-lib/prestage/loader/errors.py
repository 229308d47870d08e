"""What can go wrong while loading, told apart by what the caller does next.

    SafetensorError             the name that callers of the safetensors library already catch by
    ├── InvalidFile             no file that anybody should read (damaged or hostile header): get another copy
    ├── InvalidCheckpoint       files that do not belong together (index and shards disagree, one name in two): get them again
    ├── CorruptFile             bytes differ from the sums that the node keeps: stage it again; no tensor was returned
    ├── VerifyUnavailable       verify="require", and there is nothing to verify against: stage the artifact, or ask for less
    ├── UnknownTensor           the file holds no tensor of that name
    ├── BadIndex                a slice that does not fit the tensor
    ├── Unsupported             framework, device, dtype, backend or mode that this loader does not know: the call is wrong
    ├── OverBudget              it does not fit the memory that the call may use: raise the budget, or ask for less
    ├── DeviceError             the accelerator or its driver refused: the load is lost, its memory was given back
    └── Closed                  the handle was closed

A file that is missing or may not be read raises the system's own error (FileNotFoundError, PermissionError,
IsADirectoryError), much as with the safetensors library. All survive pickling, so that a worker
process can hand them to its parent.
"""

from __future__ import annotations


class SafetensorError(Exception):
    """Root of every error this distribution raises on purpose. Not a subclass of the safetensors library's class of that name."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message

    def __reduce__(self) -> tuple[object, ...]:
        return _revive, (type(self), self.args, self.__dict__)


class InvalidFile(SafetensorError):
    """The file is not valid safetensors. Nothing of it was returned; reading it again will not help."""


class InvalidCheckpoint(SafetensorError):
    """Index and shards, or two shards, contradict each other. Nothing was returned; reading again will not help."""


class CorruptFile(SafetensorError):
    """Bytes of the file differ from its sums, at the moment they were read. The caller got no tensor from these bytes."""

    def __init__(self, message: str, *, path: str, start: int, stop: int, artifact: str, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.path = path
        self.start = start
        """First byte of the wrong range, from the start of the file."""
        self.stop = stop
        """One past its last byte."""
        self.artifact = artifact
        """`sha256:<hex>`, as the sums name it."""


class VerifyUnavailable(SafetensorError):
    """Nothing was loaded: there are no sums for this file, or they cannot be read."""


class UnknownTensor(SafetensorError):
    """No tensor of that name."""


class BadIndex(SafetensorError):
    """The index asks for more than the tensor has, or in a way that is not basic slicing."""


class Unsupported(SafetensorError):
    """A value of an argument that this loader does not know."""


class UnsupportedDtype(Unsupported, TypeError):
    """The framework has no such dtype (numpy knows bfloat16 and the 8-bit floats only once ml_dtypes is imported)."""


class OverBudget(SafetensorError):
    """More host, pinned or device memory than the call's budget; nothing beyond the budget was taken."""


class DeviceError(SafetensorError):
    """A call of the accelerator's driver failed. Tensors returned before stay valid unless the context itself was lost."""

    def __init__(self, message: str, *, code: int, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.code = code
        """As the driver numbers it, e.g. 2 for CUDA_ERROR_OUT_OF_MEMORY."""


class Closed(SafetensorError):
    """The handle was used after its `with` block, or in a child process after a fork."""


def _revive(cls: type[SafetensorError], args: tuple[object, ...], state: dict[str, object]) -> SafetensorError:
    error = cls.__new__(cls, *args)
    error.__dict__.update(state)
    return error
