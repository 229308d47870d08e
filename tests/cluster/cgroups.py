"""Cgroups of nodes, on cgroup v1 (every controller) and v2 alike."""

from __future__ import annotations

from pathlib import Path

_TOP = Path("/sys/fs/cgroup")
_V1 = (_TOP / "memory").is_dir()


def make(path: str) -> list[Path]:
    """`/a/b` in each hierarchy, controllers handed down; the folders made."""
    roots = sorted(entry for entry in _TOP.iterdir() if entry.is_dir()) if _V1 else [_TOP]
    return [_make_below(root, path) for root in roots]


def _make_below(root: Path, path: str) -> Path:
    unified = not _V1 or root.name == "unified"
    at = root
    for part in Path(path).relative_to("/").parts:
        if unified:
            controllers = (at / "cgroup.controllers").read_text().split()
            (at / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in controllers))
        above, at = at, at / part
        at.mkdir(exist_ok=True)
        if root.name == "cpuset":  # a cpuset without CPUs takes no process
            for file in ("cpuset.cpus", "cpuset.mems"):
                (at / file).write_text((above / file).read_text())
    return at


def remove(name: str) -> None:
    """`name` and all below it. Raises OSError while a process is left in one."""
    for top in _TOP.glob(f"*/{name}" if _V1 else name):
        for folder in sorted((entry for entry in top.rglob("*") if entry.is_dir()), reverse=True):
            folder.rmdir()
        top.rmdir()
