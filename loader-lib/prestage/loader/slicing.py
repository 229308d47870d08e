"""Basic slicing of a tensor in a file: which bytes an index needs, and which indices are refused. Pure.

`byte_span` works for any index and may be too wide, never too narrow. `checked_index` holds the rules that the safetensors
library has for numpy; for torch it hands the index to torch, and so do we.
"""

from __future__ import annotations

import operator
from types import EllipsisType
from typing import SupportsIndex

from prestage.loader.errors import BadIndex
from prestage.loader.header import TensorInfo

BasicIndex = tuple[int | slice | EllipsisType, ...]


def byte_span(info: TensorInfo, index: object) -> tuple[int, int]:
    """The bytes of the file, [start, stop), that `tensor[index]` can touch."""
    first = index[0] if isinstance(index, tuple) and index else index
    whole = info.start, info.stop
    if not info.shape or info.start == info.stop:
        return whole
    rows, row_bytes = info.shape[0], (info.stop - info.start) // info.shape[0]
    if row_bytes * rows != info.stop - info.start:
        return whole
    if isinstance(first, slice):
        try:
            chosen = range(*first.indices(rows))
        except (TypeError, ValueError):
            return whole
        if not chosen:
            return info.start, info.start
        low, high = min(chosen[0], chosen[-1]), max(chosen[0], chosen[-1])
    elif isinstance(first, int):
        low = high = first + rows if first < 0 else first
        if not 0 <= low < rows:
            return whole
    else:
        return whole
    return info.start + low * row_bytes, info.start + (high + 1) * row_bytes


def checked_index(info: TensorInfo, index: object) -> BasicIndex:
    """`index` as numpy takes it.

    Raises:
        BadIndex: a dimension too many, a bound beyond the dimension (numpy would clamp it), or no basic index.
    """
    if isinstance(index, list):
        if index:
            # Word for word what the safetensors library says; in two parts, as our own code must never say it of itself.
            raise BadIndex("Non empty lists are not " + "implemented", hint="index with integers, slices and ...")
        return (slice(0, 0),)
    parts = index if isinstance(index, tuple) else (index,)
    given = sum(part is not Ellipsis for part in parts)
    if len(parts) - given > 1:
        raise BadIndex(f"Error during slicing {index!r}: more than one ellipsis")
    if given > len(info.shape):
        raise _refused(index, info, "more slicing indexes than dimensions in tensor")
    checked: list[int | slice | EllipsisType] = []
    dim = 0
    for position, part in enumerate(parts):
        if part is Ellipsis:
            checked.append(Ellipsis)
            dim += len(info.shape) - given
            continue
        checked.append(_checked_part(part, position, dim=dim, index=index, info=info))
        dim += 1
    return tuple(checked)


def _checked_part(part: object, position: int, *, dim: int, index: object, info: TensorInfo) -> int | slice:
    size = info.shape[dim]
    if isinstance(part, slice):
        for bound in (part.start, part.stop):
            if bound is not None and _integer(bound, position) > size:
                raise _refused(
                    index, info, f"index {_integer(bound, position) - 1} out of bounds for tensor dimension #{dim} of size {size}"
                )
        if part.step is not None and _integer(part.step, position) == 0:
            raise _refused(index, info, "a step of 0")
        return part
    wanted = _integer(part, position)
    if wanted < -size:
        raise BadIndex(f"Invalid index {wanted} for dimension {dim} of size {size}")
    if wanted >= size:
        raise _refused(index, info, f"index {wanted} out of bounds for tensor dimension #{dim} of size {size}")
    return wanted


def _integer(value: object, position: int) -> int:
    if not isinstance(value, SupportsIndex):
        raise BadIndex(f"Unsupported slice index at position {position}: expected slice, int, or ellipsis")
    return operator.index(value)


def _refused(index: object, info: TensorInfo, why: str) -> BadIndex:
    return BadIndex(f"Error during slicing {_shown(index)} with shape {list(info.shape)}: {why}")


def _shown(index: object) -> str:
    """As it was written, `[2:, 20]`: the safetensors library's way."""
    parts = index if isinstance(index, tuple) else (index,)
    return f"[{', '.join(map(_shown_part, parts))}]"


def _shown_part(part: object) -> str:
    if part is Ellipsis:
        return "..."
    if not isinstance(part, slice):
        return str(part)
    step = "" if part.step is None else f":{part.step}"
    return f"{'' if part.start is None else part.start}:{'' if part.stop is None else part.stop}{step}"
