"""The CUDA driver by ctypes on libcuda.so.1: what the driver itself installs, no toolkit, no framework.

Rules that the driver does not enforce for us:
- the primary context is retained once a process and never released: torch lives in the same one, tensors may outlive every load;
- the current context is a thread's (else error 201): each I/O thread attaches first, a caller's is attached for as long as it
  works for us, a finalizer's too;
- nothing here before a fork: a context does not survive one;
- the `_v2` names: without it some are the old 32-bit ABI. ctypes passes bare ints as 32 bits, so every call has argtypes.

Constants: cuda.h 13.0.
"""

from __future__ import annotations

import ctypes
import threading
from contextlib import AbstractContextManager

from prestage.loader import pages
from prestage.loader.errors import DeviceError, Unsupported

LIBRARY = "libcuda.so.1"
_CUDA = 2
"""DLPack's kDLCUDA."""
_PORTABLE = 1
_READ_ONLY = 8
_NOT_READY = 600
_STREAM_NON_BLOCKING = 1
_EVENT_BLOCKING_NO_TIMING = 1 | 2
_INTEGRATED = 18
_READ_ONLY_REGISTER = 113
_MEMORY_HOST, _MEMORY_DEVICE = 1, 2
_OUT_OF_MEMORY = 2

_P = ctypes.c_void_p
_D = ctypes.c_uint64
_S = ctypes.c_size_t
_U = ctypes.c_uint
_I = ctypes.c_int
_PP = ctypes.POINTER(ctypes.c_void_p)


class _Rows(ctypes.Structure):
    """CUDA_MEMCPY2D."""

    _fields_ = (
        ("src_x", _S), ("src_y", _S), ("src_type", _I), ("src_host", _P), ("src_device", _D), ("src_array", _P),
        ("src_pitch", _S), ("dst_x", _S), ("dst_y", _S), ("dst_type", _I), ("dst_host", _P), ("dst_device", _D),
        ("dst_array", _P), ("dst_pitch", _S),
        ("width", _S), ("height", _S),
    )  # fmt: skip


_CALLS: dict[str, tuple[type, ...]] = {
    "cuInit": (_U,),
    "cuDeviceGet": (ctypes.POINTER(_I), _I),
    "cuDeviceGetAttribute": (ctypes.POINTER(_I), _I, _I),
    "cuDevicePrimaryCtxRetain": (_PP, _I),
    "cuCtxSetCurrent": (_P,),
    "cuCtxPushCurrent_v2": (_P,),
    "cuCtxPopCurrent_v2": (_PP,),
    "cuMemGetInfo_v2": (ctypes.POINTER(_S), ctypes.POINTER(_S)),
    "cuMemAlloc_v2": (ctypes.POINTER(_D), _S),
    "cuMemFree_v2": (_D,),
    "cuMemHostAlloc": (_PP, _S, _U),
    "cuMemFreeHost": (_P,),
    "cuMemHostRegister_v2": (_P, _S, _U),
    "cuMemHostUnregister": (_P,),
    "cuStreamCreate": (_PP, _U),
    "cuStreamDestroy_v2": (_P,),
    "cuStreamSynchronize": (_P,),
    "cuEventCreate": (_PP, _U),
    "cuEventDestroy_v2": (_P,),
    "cuEventRecord": (_P, _P),
    "cuEventQuery": (_P,),
    "cuEventSynchronize": (_P,),
    "cuMemcpyHtoDAsync_v2": (_D, _P, _S, _P),
    "cuMemcpy2DAsync_v2": (ctypes.POINTER(_Rows), _P),
    "cuMemcpyDtoH_v2": (_P, _D, _S),
    "cuGetErrorName": (_I, ctypes.POINTER(ctypes.c_char_p)),
}

_drivers: dict[tuple[str, int], CudaDriver] = {}
_lock = threading.Lock()


def driver(index: int = 0) -> CudaDriver:
    """The one driver client of this process for a device.

    Raises:
        Unsupported: no CUDA driver here. DeviceError: it refuses, e.g. no such device.
    """
    with _lock:
        if (LIBRARY, index) not in _drivers:
            _drivers[LIBRARY, index] = CudaDriver(index, LIBRARY)
        return _drivers[LIBRARY, index]


class CudaDriver:
    """A `Driver` on one CUDA device's primary context."""

    def __init__(self, index: int, library: str = LIBRARY) -> None:
        """For `driver`."""
        try:
            self._cuda = ctypes.CDLL(library)
        except OSError as exc:
            raise Unsupported(f"no CUDA driver: {exc}", hint='use device="cpu", or run where the NVIDIA driver is') from exc
        for name, arguments in _CALLS.items():
            getattr(self._cuda, name).argtypes = arguments
        self._pinned: dict[int, tuple[int, int] | None] = {}
        """What lies around pinned memory that we mapped; None: the driver's."""
        self.device = (_CUDA, index)
        self._call("cuInit", 0)
        number, context = _I(), _P()
        self._call("cuDeviceGet", ctypes.byref(number), index)
        self._number = number.value
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), self._number)
        self._context = context
        self._attached = _Attached(self)
        # on unified memory the copy engine reads file pages at 0.2 GB/s: always bounce there
        self.reads_page_cache = bool(self._attribute(_READ_ONLY_REGISTER)) and not self._attribute(_INTEGRATED)

    def attach(self) -> None:
        """Of the calling thread."""
        self._call("cuCtxSetCurrent", self._context)

    def attached(self) -> AbstractContextManager[None]:
        """On top of what the thread has."""
        return self._attached

    def free_bytes(self) -> int:
        """By the driver's count, other processes' use included."""
        free, total = _S(), _S()
        self._call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return free.value

    def allocate(self, size_bytes: int) -> int:
        """Aligned to 512 by the driver."""
        address = _D()
        self._call("cuMemAlloc_v2", ctypes.byref(address), size_bytes, what=f"allocating {size_bytes} bytes")
        return address.value

    def free(self, address: int) -> None:
        """Waits for the device where it must."""
        self._call("cuMemFree_v2", address)

    def pin(self, size_bytes: int) -> int:
        """Huge pages of ours where the driver takes them: 2-4 times as fast to get as its own. Portable: for every context."""
        around = -(-size_bytes // pages.PAGE) * pages.PAGE + pages.HUGE
        try:
            start = pages.reserve(around)
        except OSError as exc:
            raise DeviceError(f"pinning {size_bytes} bytes: {exc}", code=_OUT_OF_MEMORY) from exc
        address = -(-start // pages.HUGE) * pages.HUGE
        pages.want_huge(address, around - pages.HUGE)
        size = around - pages.HUGE
        if pages.prefault(address, size) and not self._cuda.cuMemHostRegister_v2(address, size, _PORTABLE):
            self._pinned[address] = (start, around)
            return address
        pages.unmap(start, around)
        own = _P()
        self._call("cuMemHostAlloc", ctypes.byref(own), size_bytes, _PORTABLE, what=f"pinning {size_bytes} bytes")
        assert own.value
        self._pinned[own.value] = None
        return own.value

    def unpin(self, address: int) -> None:
        """Once."""
        around = self._pinned.pop(address, None)
        if around is None:
            self._call("cuMemFreeHost", address)
            return
        try:
            self._call("cuMemHostUnregister", address)
        finally:
            pages.unmap(*around)

    def register(self, address: int, size_bytes: int) -> bool:
        """False for whatever reason: pinned memory always works."""
        return not self._cuda.cuMemHostRegister_v2(address, size_bytes, _PORTABLE | _READ_ONLY)

    def unregister(self, address: int) -> None:
        """Once."""
        self._call("cuMemHostUnregister", address)

    def stream(self) -> int:
        """Not ordered with the default stream."""
        return self._handle("cuStreamCreate", _STREAM_NON_BLOCKING)

    def end_stream(self, stream: int) -> None:
        """Once."""
        self._call("cuStreamDestroy_v2", stream)

    def copy(self, target: int, source: int, size_bytes: int, stream: int) -> None:
        """By the copy engine."""
        self._call("cuMemcpyHtoDAsync_v2", target, source, size_bytes, stream, what=f"copying {size_bytes} bytes")

    def copy_rows(
        self, target: int, source: int, *, width: int, rows: int, target_pitch: int, source_pitch: int, stream: int
    ) -> None:
        """By the copy engine, as one request."""
        wanted = _Rows(
            src_type=_MEMORY_HOST, src_host=source, src_pitch=source_pitch,
            dst_type=_MEMORY_DEVICE, dst_device=target, dst_pitch=target_pitch,
            width=width, height=rows,
        )  # fmt: skip
        self._call("cuMemcpy2DAsync_v2", ctypes.byref(wanted), stream, what=f"copying {rows} rows of {width} bytes")

    def event(self) -> int:
        """Who waits sleeps."""
        return self._handle("cuEventCreate", _EVENT_BLOCKING_NO_TIMING)

    def end_event(self, event: int) -> None:
        """Once."""
        self._call("cuEventDestroy_v2", event)

    def record(self, event: int, stream: int) -> None:
        """Behind the stream's work so far."""
        self._call("cuEventRecord", event, stream)

    def is_reached(self, event: int) -> bool:
        """Asks, and does not sleep."""
        code = self._cuda.cuEventQuery(event)
        if code not in (0, _NOT_READY):
            raise self._error(code, "cuEventQuery")
        return not code

    def wait(self, event: int) -> None:
        """Sleeps."""
        self._call("cuEventSynchronize", event)

    def wait_stream(self, stream: int) -> None:
        """Sleeps or spins, as the context does."""
        self._call("cuStreamSynchronize", stream)

    def read_back(self, address: int, size_bytes: int) -> bytes:
        """Through pageable memory."""
        target = ctypes.create_string_buffer(size_bytes)
        self._call("cuMemcpyDtoH_v2", target, address, size_bytes)
        return target.raw

    def _attribute(self, number: int) -> int:
        found = _I()
        self._call("cuDeviceGetAttribute", ctypes.byref(found), number, self._number)
        return found.value

    def _handle(self, call: str, flags: int) -> int:
        handle = _P()
        self._call(call, ctypes.byref(handle), flags)
        return int(handle.value or 0)

    def _call(self, name: str, *arguments: object, what: str | None = None) -> None:
        if code := getattr(self._cuda, name)(*arguments):
            raise self._error(code, what or name)

    def _error(self, code: int, what: str) -> DeviceError:
        said = ctypes.c_char_p()
        self._cuda.cuGetErrorName(code, ctypes.byref(said))
        error = said.value.decode() if said.value else f"error {code}"
        return DeviceError(f"{what}: {error} ({code})", code=code)


class _Attached:
    """One for all threads: each has a stack of its own in the driver."""

    def __init__(self, driver: CudaDriver) -> None:
        self._driver = driver

    def __enter__(self) -> None:
        self._driver._call("cuCtxPushCurrent_v2", self._driver._context)

    def __exit__(self, *_: object) -> None:
        # it fails only where the block did, whose error says more
        self._driver._cuda.cuCtxPopCurrent_v2(ctypes.byref(_P()))
