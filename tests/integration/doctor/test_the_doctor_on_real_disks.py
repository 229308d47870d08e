"""`prestage doctor` on real file systems: a disk of its own, memory, a container's layer, read-only, absent."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from commands import Prestage
from stores.namespaces import in_a_mount_namespace

DOCTOR = f"{sys.executable} -m prestage.cacher.cli doctor"
Findings = dict[str, dict[str, str | None]]


def said(text: str) -> Findings:
    return {row["check"]: row for row in json.loads(text)}


def on_mount(tmp_path: Path, mount: str, *options: str, code: int = 0) -> Findings:
    """What it says of `disk` below `tmp_path`, mounted by the lines of `mount`, in its own namespace."""
    script = (
        f"cd {tmp_path} && mkdir -p disk && {mount} && {DOCTOR} --root {tmp_path}/disk --json {' '.join(options)} > out; echo $?"
    )
    done = in_a_mount_namespace(script)
    assert int(done.stdout.split()[-1]) == code, done.stderr
    return said((tmp_path / "out").read_text())


@pytest.mark.needs("root", "mount", "mkfs.ext4")
def test_a_disk_of_its_own(tmp_path: Path) -> None:
    subprocess.run(["truncate", "-s", "600M", tmp_path / "image"], check=True)
    subprocess.run(["mkfs.ext4", "-q", tmp_path / "image"], check=True)
    found = on_mount(tmp_path, "mount -o loop image disk")
    assert found["filesystem"]["level"] == "ok"
    assert "ext4" in (found["filesystem"]["found"] or "")
    assert found["mount"]["level"] == "ok"
    for check in ("hardlinks", "direct", "fallocate"):
        assert found[check]["level"] == "ok"
    assert found["reflinks"]["level"] == "note"
    assert "writes" in (found["disk"]["found"] or "")
    assert found["store"]["found"] == f"there is no store at {tmp_path}/disk yet", "lost+found is no stranger"


@pytest.mark.needs("root", "mount")
def test_memory(tmp_path: Path) -> None:
    found = on_mount(tmp_path, "mount -t tmpfs -o size=100m none disk")
    assert found["filesystem"]["level"] == "warning"
    assert "memory" in (found["filesystem"]["found"] or "")
    assert found["hardlinks"]["level"] == "ok"
    assert "12.6 MB" in (found["disk"]["found"] or ""), "an eighth of what is free, in whole portions"


@pytest.mark.needs("root", "mount")
def test_a_containers_layer(tmp_path: Path) -> None:
    lines = "mkdir -p parts && mount -t tmpfs -o size=64m none parts && mkdir parts/lower parts/upper parts/work"
    lines += " && mount -t overlay -o lowerdir=parts/lower,upperdir=parts/upper,workdir=parts/work overlay disk"
    found = on_mount(tmp_path, lines, "--quick")
    assert found["filesystem"]["level"] == "warning"
    assert "a container's own layer" in (found["filesystem"]["found"] or "")
    assert found["hardlinks"]["level"] == "ok"


@pytest.mark.needs("root", "mount")
def test_a_disk_that_is_mounted_read_only(tmp_path: Path) -> None:
    found = on_mount(tmp_path, "mount -t tmpfs -o ro none disk", code=2)
    assert (found["filesystem"]["level"], found["filesystem"]["kind"]) == ("error", "misconfigured")
    assert "remount,rw" in (found["filesystem"]["do"] or "")
    assert "files" not in found, "one cause, one error"


@pytest.mark.needs("root", "mount")
def test_a_disk_without_room(tmp_path: Path) -> None:
    found = on_mount(tmp_path, "mount -t tmpfs -o size=4m none disk && (head -c 5M /dev/zero > disk/full || true)", code=2)
    assert (found["room"]["level"], found["room"]["kind"]) == ("error", "full")
    assert found["store"]["level"] == "error", "what lies there is no store, which stage would say as well"


def test_a_directory_that_is_not_there(prestage: Prestage) -> None:
    done = prestage("doctor", "--json", "--quick")
    assert done.code == 0
    assert said(done.out)["root"]["level"] == "note"
    assert not prestage.root.exists()


def test_a_store_is_left_as_it_is(prestage: Prestage, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    assert prestage("stage", f"file://{tmp_path}/model").code == 0
    before = sorted(path for path in prestage.root.rglob("*"))
    done = prestage("doctor", "--origin", f"file://{tmp_path}/model")
    assert done.code == 0, done.out
    assert "a store that nobody owns just now" in done.out
    assert "1 file, 2 B" in done.out
    assert sorted(path for path in prestage.root.rglob("*")) == before
    assert prestage("ls").code == 0


def test_an_error_decides_the_exit_code_by_its_class(prestage: Prestage) -> None:
    done = prestage("doctor", "--quick", "--origin", "file:///none/of/this")
    assert done.code == 3
    assert "error   origin" in done.out
    assert "1 error" in done.err
