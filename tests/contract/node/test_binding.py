"""What the driver binds is read-only wherever it comes to: in the node's own namespace, and in a pod that has it from there."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from prestage.node.csi.mountinfo import MountPoint, parse

pytestmark = [pytest.mark.needs("mount", "root")]
_DRIVER = """
import sys
from pathlib import Path
from prestage.node.csi import binding
folder, way = Path(sys.argv[1]), sys.argv[2]
if way == "old":
    def attach(source, target):
        raise NotImplementedError
    binding._attach = attach
target = folder / "kubelet/mount"
if way == "release":
    binding.release(target)
else:
    binding.show(folder / "trees" / ("0f" * 32), folder / "mounts/mount-0123456789abcdef", target)
    bound = binding.bound(target)
    print(bound.is_whole, bound.hold, bound.writable())
"""
_NODE = """
set -e
mount --bind {folder} {folder}
mount --make-shared {folder}
unshare -m --propagation unchanged {python} {folder}/driver.py {folder} {way}
cat /proc/self/mountinfo > {folder}/bound
mkdir {folder}/pod
unshare -m --propagation private sh -c '
    mount --rbind {folder}/kubelet/mount {folder}/pod
    mount -o remount,bind,ro {folder}/pod
    cat {folder}/pod/.prestage/.tree.json
    touch {folder}/pod/.prestage/x {folder}/pod/x && echo written || true'
unshare -m --propagation unchanged {python} {folder}/driver.py {folder} release
cat /proc/self/mountinfo > {folder}/released
"""


def ours(folder: Path, seen: str) -> dict[Path, MountPoint]:
    """Those of the folder: other tests mount beside us."""
    points = {Path(point.target): point for point in parse((folder / seen).read_text()) if point.is_ours}
    return {target: point for target, point in points.items() if target.is_relative_to(folder)}


@pytest.mark.parametrize("way", ["new", "old"])
def test_a_tree_and_what_lies_over_it_are_read_only_in_every_namespace(way: str) -> None:
    """`old`: as on a kernel before 5.12."""
    with tempfile.TemporaryDirectory(prefix="prestage-bound-") as name:
        folder = Path(name)
        tree, own = folder / "trees" / ("0f" * 32), folder / "mounts/mount-0123456789abcdef"
        for path in (folder / "kubelet", tree / ".prestage", own):
            path.mkdir(parents=True)
        (own / ".tree.json").write_text("own")
        (folder / "driver.py").write_text(_DRIVER)
        script = _NODE.format(folder=folder, python=sys.executable, way=way)
        command = ["unshare", "-m", "--propagation", "private", "bash", "-c", script]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ, "LC_ALL": "C"}, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines() == [f"True {own.name} []", "own"]
        assert done.stderr.count("Read-only file system") == 2
        points = ours(folder, "bound")
        target = folder / "kubelet/mount"
        assert points.keys() == {target, target / ".prestage"}
        for point in points.values():
            assert {"ro", "nosuid", "nodev"} <= point.options
        assert not ours(folder, "released")
        assert not target.exists()
