"""A libcuda.so.1 without a GPU (fakecuda.c), compiled once and copied for each test, so that none sees another's state."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest

from prestage.loader.memory import cuda
from prestage.loader.memory.cuda import CudaDriver

SOURCE = Path(__file__).with_name("fakecuda.c")
KINDS = ("device", "pinned", "registered", "streams", "events")


def compile_library(folder: Path) -> Path:
    """Skips the test where there is no C compiler."""
    compiler = next((found for name in ("cc", "gcc", "clang") if (found := shutil.which(name))), None)
    if compiler is None:
        pytest.skip("no C compiler: the fake CUDA driver cannot be built")
    library = folder / "libcuda.so.1"
    command = [compiler, "-O1", "-shared", "-fPIC", "-pthread", "-o", str(library), str(SOURCE)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return library


class FakeCuda:
    """One fresh fake driver, in the place of the real one as long as the test runs."""

    def __init__(self, library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._library = ctypes.CDLL(str(library))
        self._library.fakecuda_get.restype = ctypes.c_long
        self._library.fakecuda_get.argtypes = (ctypes.c_char_p,)
        self._library.fakecuda_set.argtypes = (ctypes.c_char_p, ctypes.c_long)
        monkeypatch.setattr(cuda, "LIBRARY", str(library))
        monkeypatch.setattr(cuda, "_drivers", {})

    def get(self, name: str) -> int:
        return int(self._library.fakecuda_get(name.encode()))

    def set(self, name: str, value: int) -> None:
        self._library.fakecuda_set(name.encode(), value)

    def driver(self) -> CudaDriver:
        """Attached to this thread."""
        driver = cuda.driver()
        driver.attach()
        return driver

    def current(self) -> int | None:
        """Which context is this thread's."""
        context = ctypes.c_void_p()
        self._library.cuInit(0)
        self._library.cuCtxGetCurrent(ctypes.byref(context))
        return context.value

    def held(self) -> dict[str, int]:
        """What was taken and not given back."""
        return {kind: count for kind in KINDS if (count := self.get(kind))}

    def assert_clean(self) -> None:
        """Nothing held, and nothing done that no honest client does."""
        assert self.get("violations") == 0
        assert self.held() == {}
