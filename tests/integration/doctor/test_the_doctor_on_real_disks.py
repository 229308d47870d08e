"""`prestage doctor` on real file systems: a disk of its own, memory, a container's layer, read-only, absent."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from commands import Prestage
from stores.namespaces import in_a_mount_namespace

PRESTAGE = f"{sys.executable} -m prestage.cacher.cli"
DOCTOR = f"{PRESTAGE} doctor"
MEMORY = "mount -t tmpfs -o size=100m none disk"
"""Its room is its own: how full the machine's disk is decides nothing."""
Findings = dict[str, dict[str, str | None]]


def said(text: str) -> Findings:
    return {row["check"]: row for row in json.loads(text)}


def on_mount(tmp_path: Path, mount: str, *options: str, code: int = 0, root: str = "disk", before: str = "true") -> Findings:
    """What it says of `root` below `tmp_path`, after `disk` was mounted there by the lines of `mount` and then `before` was run,
    in its own namespace."""
    asked = f"{DOCTOR} --root {tmp_path}/{root} --json > out {' '.join(options)}"
    done = in_a_mount_namespace(f"cd {tmp_path} && mkdir -p disk && {mount} && {{ {before}; }} && {asked}; echo $?")
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
    found = on_mount(tmp_path, MEMORY)
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


@pytest.mark.needs("root", "mount")
def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    found = on_mount(tmp_path, MEMORY, "--quick && test ! -e disk/none", root="disk/none")
    assert found["root"]["level"] == "note"


@pytest.mark.needs("root", "mount")
def test_a_store_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    stage = f"{PRESTAGE} stage file://{tmp_path}/model --root disk/store && find disk | sort > before"
    after = f"&& find disk | sort | diff before - && {PRESTAGE} ls --root disk/store"
    found = on_mount(tmp_path, MEMORY, f"--origin file://{tmp_path}/model {after} >&2", root="disk/store", before=stage)
    assert found["store"]["found"] == "a store that nobody owns just now"
    assert "1 file, 2 B" in (found["origin"]["found"] or "")


@pytest.mark.needs("root", "mount")
def test_an_error_decides_the_exit_code_by_its_class(tmp_path: Path) -> None:
    found = on_mount(tmp_path, MEMORY, "--quick", "--origin", "file:///none/of/this", code=3)
    assert [name for name, one in found.items() if one["level"] == "error"] == ["origin"]


def test_what_it_says_is_read_by_people_too(prestage: Prestage) -> None:
    done = prestage("doctor", "--quick", "--origin", "file:///none/of/this")
    assert "error   origin" in done.out
    assert re.search(r"^\d errors?, \d warning", done.err)
