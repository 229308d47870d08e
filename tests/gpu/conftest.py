"""Everything here needs a real CUDA device, and says so where there is none."""

from __future__ import annotations

import pytest

from prestage.loader.errors import DeviceError, Unsupported
from prestage.loader.memory import cuda
from prestage.loader.memory.cuda import CudaDriver


@pytest.fixture(scope="session")
def gpu() -> CudaDriver:
    """The first device."""
    try:
        return cuda.driver()
    except (Unsupported, DeviceError) as exc:
        pytest.skip(f"no GPU here ({exc})")


@pytest.fixture
def driver(gpu: CudaDriver) -> CudaDriver:
    """Attached to this thread."""
    gpu.attach()
    return gpu
