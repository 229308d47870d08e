"""The element types of the safetensors format and their names in the frameworks. Pure; imports no framework.

Source: enum Dtype and get_pydtype() of safetensors 0.8. A type without a name in a framework cannot be loaded there.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Dtype:
    """One element type."""

    code: str
    """As the header writes it."""
    bits: int
    """Of one element; below 8 elements are packed."""
    torch: str | None
    """Attribute of the torch module."""
    numpy: str | None
    """What numpy.dtype() is asked for."""


_PLAIN = {
    "BOOL": (8, "bool"), "U8": (8, "uint8"), "I8": (8, "int8"), "U16": (16, "uint16"), "I16": (16, "int16"),
    "F16": (16, "float16"), "BF16": (16, "bfloat16"), "U32": (32, "uint32"), "I32": (32, "int32"), "F32": (32, "float32"),
    "U64": (64, "uint64"), "I64": (64, "int64"), "F64": (64, "float64"), "C64": (64, "complex64"),
    "F8_E4M3": (8, "float8_e4m3fn"), "F8_E4M3FNUZ": (8, "float8_e4m3fnuz"), "F8_E5M2": (8, "float8_e5m2"),
    "F8_E5M2FNUZ": (8, "float8_e5m2fnuz"), "F8_E8M0": (8, "float8_e8m0fnu"),
}  # fmt: skip

DTYPES = {code: Dtype(code, bits, name, name) for code, (bits, name) in _PLAIN.items()} | {
    # two elements a byte: torch's dtype is the pair, numpy has none
    "F4": Dtype("F4", 4, "float4_e2m1fn_x2", None),
    "F6_E2M3": Dtype("F6_E2M3", 6, None, None),
    "F6_E3M2": Dtype("F6_E3M2", 6, None, None),
}
"""By the header's code."""
