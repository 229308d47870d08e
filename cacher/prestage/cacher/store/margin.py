"""How much of the disk is left to others. Pure.

On a disk of its own the store leaves little. On one that it shares with the kubelet or with containerd it stays clear of their
thresholds: below those the kubelet evicts pods and deletes images, and it cannot evict what we hold.
"""

from __future__ import annotations

MARGIN_BYTES_MAX = 1 << 30
MARGIN_DIVISOR = 50
KUBELET_PERCENT = 15
"""The kubelet's own defaults: nodefs.available < 10 %, imagefs.available < 15 %
(kubernetes/pkg/kubelet/apis/config/v1beta1/defaults_linux.go); image garbage collection begins at 85 % used."""
CLEAR_PERCENT = 3
"""Distance from that threshold: what others may write before we are asked to give room back."""


def default_margin(total_bytes: int, *, is_shared: bool = False) -> int:
    """Bytes to leave free. Alone: 2 % of the disk, at most 1 GiB. `is_shared` with the kubelet: its threshold and 3 % more."""
    if is_shared:
        return total_bytes * (KUBELET_PERCENT + CLEAR_PERCENT) // 100
    return min(MARGIN_BYTES_MAX, total_bytes // MARGIN_DIVISOR)
