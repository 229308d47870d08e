"""A tensor without a framework: bytes somewhere, a shape and a dtype, handed on by DLPack.

Capsules of version 0 ("dltensor") and 1 ("dltensor_versioned"), by what the consumer asks for. The consumer's deleter is called
when its last view dies, on whatever thread that is; a capsule that nobody consumed gives its hold up when it is collected.
"""

from __future__ import annotations

import ctypes
import threading
from typing import Any

from prestage.loader.dtypes import Dtype
from prestage.loader.errors import UnsupportedDtype

_CODES = {
    "BOOL": 6, "U8": 1, "I8": 0, "U16": 1, "I16": 0, "F16": 2, "BF16": 4, "U32": 1, "I32": 0, "F32": 2, "U64": 1, "I64": 0,
    "F64": 2, "C64": 5, "F8_E4M3": 10, "F8_E4M3FNUZ": 11, "F8_E5M2": 12, "F8_E5M2FNUZ": 13, "F8_E8M0": 14,
}  # fmt: skip
"""dlpack.h 1.1: int 0, uint 1, float 2, bfloat 4, complex 5, bool 6, and one code for each 8-bit float."""


class _Device(ctypes.Structure):
    _fields_ = (("type", ctypes.c_int32), ("index", ctypes.c_int32))


class _DataType(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16))


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device", _Device),
        ("dims", ctypes.c_int32),
        ("dtype", _DataType),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("offset", ctypes.c_uint64),
    )


class _Managed(ctypes.Structure):
    _fields_ = (("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", ctypes.c_void_p))


class _Versioned(ctypes.Structure):
    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("context", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("tensor", _Tensor),
    )


_held: dict[int, tuple[object, ...]] = {}
"""By the address of the managed tensor: what must live until its deleter runs."""
_lock = threading.RLock()

_new_capsule = ctypes.pythonapi.PyCapsule_New
_new_capsule.restype = ctypes.py_object
_new_capsule.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
_is_valid = ctypes.pythonapi.PyCapsule_IsValid
_is_valid.argtypes = (ctypes.c_void_p, ctypes.c_char_p)
_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_pointer.restype = ctypes.c_void_p
_pointer.argtypes = (ctypes.c_void_p, ctypes.c_char_p)
_NAMES = (b"dltensor", b"dltensor_versioned")


def _let_go(managed: int) -> None:
    with _lock:
        held = _held.pop(managed, None)
    del held


def _collected(capsule: int) -> None:
    """A consumer renames the capsule; under its old name it still is ours."""
    for name in _NAMES:
        if _is_valid(capsule, name):
            _let_go(_pointer(capsule, name))


_deleter = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(_let_go)
"""Kept for ever: consumers may call it until the interpreter ends."""
_unconsumed = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)(_collected)


class RawTensor:
    """C-contiguous bytes of one dtype. `owner` keeps them; whoever takes them by DLPack keeps it in turn."""

    def __init__(self, address: int, shape: tuple[int, ...], dtype: Dtype, *, device: tuple[int, int], owner: object) -> None:
        self.address = address
        self.shape = shape
        self.dtype = dtype.code
        """As the header writes it."""
        self.device = device
        self._dtype = dtype
        self._owner = owner

    def __dlpack_device__(self) -> tuple[int, int]:
        """(type, index): 1 host, 2 CUDA."""
        return self.device

    def __dlpack__(self, *, max_version: tuple[int, int] | None = None, **_: object) -> Any:
        """A capsule. `stream` needs nothing: the copies were waited for; `copy` and another device are not offered.

        Raises:
            UnsupportedDtype: DLPack has no such type.
        """
        versioned = max_version is not None and max_version[0] >= 1
        managed: _Managed | _Versioned = _Versioned(major=1) if versioned else _Managed()
        shape = (ctypes.c_int64 * max(len(self.shape), 1))(*self.shape)
        strides = (ctypes.c_int64 * max(len(self.shape), 1))(*_strides(self.shape))
        tensor = managed.tensor
        tensor.data, tensor.device, tensor.dims = self.address, _Device(*self.device), len(self.shape)
        tensor.dtype, tensor.shape, tensor.strides = self._type(), shape, strides
        managed.deleter = ctypes.cast(_deleter, ctypes.c_void_p)
        where = ctypes.addressof(managed)
        with _lock:
            _held[where] = (managed, shape, strides, self._owner)
        return _new_capsule(where, _NAMES[versioned], ctypes.cast(_unconsumed, ctypes.c_void_p))

    def _type(self) -> _DataType:
        code = _CODES.get(self.dtype)
        if code is None:
            raise UnsupportedDtype(f"DLPack has no {self.dtype}", hint="take its bytes")
        return _DataType(code, self._dtype.bits, 1)


def _strides(shape: tuple[int, ...]) -> list[int]:
    strides = [1] * len(shape)
    for dim in range(len(shape) - 2, -1, -1):
        strides[dim] = strides[dim + 1] * shape[dim + 1]
    return strides
