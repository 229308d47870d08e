"""The header of a safetensors file: bytes in, a checked table out. Pure; refuses whatever does not fit the file exactly.

    offset  size  field
    0       8     n, length of the JSON, u64 little-endian, at most 100 MB
    8       n     {"<name>": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, …, "__metadata__": {"k": "v"}}
    8 + n         data: the tensors without gap, overlap or rest; data_offsets count from here

Invariant: every TensorInfo lies inside the file, is exactly as long as its shape and dtype say, and the tensors together cover
the data once. Stricter than the safetensors library only where it keeps the last of two equal keys or reads a tensor's entry
from an array (tests/contract/loader lists them).
"""

from __future__ import annotations

from dataclasses import dataclass

from prestage.loader import strict_json
from prestage.loader.dtypes import DTYPES, Dtype
from prestage.loader.errors import InvalidFile

MAX_HEADER_BYTES = 100_000_000
"""As the safetensors library."""
PREFIX_BYTES = 8
_MAX_INTEGER = 2**64 - 1
_METADATA = "__metadata__"


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where one tensor lies in the file, in bytes from its start."""

    name: str
    dtype: Dtype
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Header:
    """What a file holds."""

    tensors: dict[str, TensorInfo]
    """In the order of their bytes."""
    metadata: dict[str, str] | None


def header_end(prefix: bytes, file_bytes: int) -> int:
    """Offset at which the data begins, from the file's first (up to 8) bytes.

    Raises:
        InvalidFile: no header can end there.
    """
    if len(prefix) < PREFIX_BYTES:
        raise _invalid(
            "header too small", f"the file has {file_bytes} bytes, the length of the header alone takes {PREFIX_BYTES}"
        )
    length = int.from_bytes(prefix[:PREFIX_BYTES], "little")
    if length > MAX_HEADER_BYTES:
        raise _invalid("header too large", f"{length} bytes, at most {MAX_HEADER_BYTES} are read")
    if PREFIX_BYTES + length > file_bytes:
        raise _invalid("invalid header length", f"{length} bytes in a file of {file_bytes}")
    return PREFIX_BYTES + length


def parse(text: bytes, file_bytes: int) -> Header:
    """The table in `text`, which are the bytes between the length and `header_end`, of a file of `file_bytes` bytes.

    Raises:
        InvalidFile: the table contradicts itself, the format or the file's size.
    """
    try:
        table = strict_json.loads(text)
    except UnicodeError as exc:
        raise _invalid("invalid UTF-8 in header", str(exc)) from exc
    except ValueError as exc:
        raise _invalid("invalid JSON in header", str(exc)) from exc
    if not isinstance(table, dict):
        raise _invalid("invalid JSON in header", "not an object")
    metadata = _metadata(table.pop(_METADATA, None))
    base = PREFIX_BYTES + len(text)
    found = [_tensor(name, entry, base) for name, entry in table.items()]
    found.sort(key=lambda info: (info.start, info.stop))
    _refuse_gaps(found, base, file_bytes)
    return Header({info.name: info for info in found}, metadata)


def _metadata(value: object) -> dict[str, str] | None:
    if value is None:
        return None
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise _invalid("invalid JSON in header", f"{_METADATA} is not an object of strings")
    return value


def _tensor(name: str, entry: object, base: int) -> TensorInfo:
    if not isinstance(entry, dict):
        raise _invalid("invalid JSON in header", f"the entry of tensor {_short(name)} is not an object")
    code = entry.get("dtype")
    dtype = DTYPES.get(code) if isinstance(code, str) else None
    if dtype is None:
        raise _invalid("invalid JSON in header", f"tensor {_short(name)} has the unknown dtype {_short(code)}")
    shape, offsets = _integers(entry.get("shape")), _integers(entry.get("data_offsets"))
    if shape is None:
        raise _invalid("invalid JSON in header", f"the shape of tensor {_short(name)} is not a list of sizes")
    if offsets is None or len(offsets) != 2:
        raise _invalid("invalid JSON in header", f"data_offsets of tensor {_short(name)} are not two offsets")
    start, stop = offsets
    if stop - start != _size_bytes(name, shape, dtype):
        raise _invalid(
            "invalid shape, data type, or offset for tensor", f"{_short(name)}: {stop - start} bytes for {code} {_short(shape)}"
        )
    return TensorInfo(name, dtype, shape, base + start, base + stop)


def _integers(value: object) -> tuple[int, ...] | None:
    if not isinstance(value, list):
        return None
    for item in value:
        if type(item) is not int or not 0 <= item <= _MAX_INTEGER:
            return None
    return tuple(value)


def _size_bytes(name: str, shape: tuple[int, ...], dtype: Dtype) -> int:
    """Multiplied from the left and bounded at each step, as the library does: [0, 2**63, 4] is empty, [2**63, 4, 0] overflows."""
    count = 1
    for dim in shape:
        count *= dim
        if count > _MAX_INTEGER:
            raise _overflow(name)
    bits = count * dtype.bits
    if bits > _MAX_INTEGER:
        raise _overflow(name)
    if bits % 8:
        raise _invalid("the tensor does not end at a byte boundary", f"{_short(name)}: {bits} bits")
    return bits // 8


def _refuse_gaps(found: list[TensorInfo], base: int, file_bytes: int) -> None:
    end = base
    for info in found:
        if info.start != end:
            what = "overlaps the one before it" if info.start < end else "leaves a gap before it"
            raise _invalid(f"invalid offset for tensor {_short(info.name)}", what)
        end = info.stop
    if end != file_bytes:
        raise _invalid("incomplete metadata, file not fully covered", f"tensors end at byte {end} of {file_bytes}")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 100 else text[:100] + "…"


def _overflow(name: str) -> InvalidFile:
    return _invalid("overflow computing buffer size from shape and/or element type", _short(name))


def _invalid(what: str, detail: str) -> InvalidFile:
    return InvalidFile(f"Error while deserializing header: {what}: {detail}", hint="get another copy of the file")
