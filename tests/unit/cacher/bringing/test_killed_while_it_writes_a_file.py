"""`export` and `lock` write files outside the store: killed before any call that changes the disk, the old file is there or the
new one, and the same command ends well."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Protocol

import pytest
from stores.making import Model, content, stage

from prestage.cacher import lockfile
from prestage.cacher.archives.exporting import export
from prestage.cacher.digests import ArtifactId
from prestage.cacher.lockfile import Pin
from prestage.cacher.store.store import Store

MODEL = Model({"config.json": b'{"a": 1}', "model.safetensors": content(9001, "export")})
OLD = b"what was there before"
CHANGING = ("open", "pwrite", "write", "ftruncate", "fsync", "rename", "replace", "unlink")
"""Of the module os: what a file is written, made durable and put in place by."""


Arm = Callable[[], None]


def do_export(top: Path, arm: Arm = lambda: None) -> None:
    with Store.open(top / "store", own=True) as store:
        arm()
        export(store, MODEL.artifact, top / "out" / "file", force=True)


def do_lock(top: Path, arm: Arm = lambda: None) -> None:
    arm()
    lockfile.write(top / "out" / "file", [Pin("hf://org/name@main", ArtifactId(f"sha256:{'a' * 64}"), 1, 2, "c" * 40)])


class Act(Protocol):
    """Writes `out/file`; calls `arm` when everything else is done."""

    def __call__(self, top: Path, arm: Arm = ...) -> None: ...


def killed(act: Act, top: Path, fatal: int) -> bool:
    """In a child that dies before its call number `fatal`. False: it ended well before that."""
    child = os.fork()
    if child == 0:
        try:
            act(top, partial(_kill_before, fatal))
            os._exit(0)
        finally:
            os._exit(3)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def _kill_before(fatal: int) -> None:
    calls = iter(range(fatal + 1))
    patch = pytest.MonkeyPatch()
    for name in CHANGING:
        real = getattr(os, name)

        def deadly(*args: object, _real: Callable[..., object] = real, **more: object) -> object:
            if next(calls) == fatal:
                os.kill(os.getpid(), signal.SIGKILL)
            return _real(*args, **more)

        patch.setattr(os, name, deadly)


@pytest.mark.parametrize("act", [do_export, do_lock])
def test_a_kill_at_any_step_leaves_the_old_file_or_the_new_one(act: Act, fast_path: Path) -> None:
    with Store.open(fast_path / "store", own=True) as store:
        stage(store, MODEL)
    out = fast_path / "out"
    out.mkdir()
    act(fast_path)
    new = (out / "file").read_bytes()
    fatal = 0
    seen = set[bytes]()
    (out / "file").write_bytes(OLD)
    while killed(act, fast_path, fatal):
        seen.add((out / "file").read_bytes())
        assert seen <= {OLD, new}, f"half a file, killed before call {fatal}"
        act(fast_path)
        assert [path.name for path in out.iterdir()] == ["file"], "left over"
        (out / "file").write_bytes(OLD)
        fatal += 1
    assert fatal > 1
    assert OLD in seen
