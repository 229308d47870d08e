"""`.ci/tools` on a machine that has nothing: what is built, what is installed, and what is said of the rest.

/usr/sbin is looked into whatever PATH says: what is checked here is programs of /usr/bin.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest

CI = Path(__file__).resolve().parents[3] / ".ci"
NEEDED = (
    "bash",
    "sh",
    "cat",
    "tail",
    "cut",
    "dirname",
    "mktemp",
    "mkdir",
    "mv",
    "rm",
    "touch",
    "chmod",
    "timeout",
    "sed",
    "sha256sum",
    "grep",
)
GO = """
case "$3" in
  *kubeconform*) echo "no such module" >&2; exit 1 ;;
esac
echo "#!/bin/sh" > "$GOBIN/built"; chmod +x "$GOBIN/built"
"""
APT = """
echo "$@" >> "$0.log"
[ "$1" = update ] && exit 0
shift 4
case "$*" in
  *containerd*) echo "E: Unable to locate package containerd" >&2; exit 100 ;;
esac
for package in "$@"; do
  echo "#!/bin/sh" > "$(dirname "$0")/${package%-static}"; chmod +x "$(dirname "$0")/${package%-static}"
done
"""


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A house and a PATH with next to nothing on it."""
    (tmp_path / "house").mkdir()
    shutil.copytree(CI, tmp_path / "house" / ".ci")
    (tmp_path / "house" / "tests" / "cluster" / "kubetest").mkdir(parents=True)
    (tmp_path / "house" / "tests" / "cluster" / "kubetest" / "go.mod").write_text("\tk8s.io/kubernetes v1.36.3\n")
    (tmp_path / "bin").mkdir()
    for name in NEEDED:
        found = shutil.which(name)
        assert found is not None, name
        (tmp_path / "bin" / name).symlink_to(found)
    return tmp_path


def program(machine: Path, name: str, text: str) -> None:
    path = machine / "bin" / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def tools(machine: Path) -> str:
    argv = [machine / "house" / ".ci" / "tools"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, env={"PATH": str(machine / "bin")}, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_is_lacking_is_built_and_installed_and_one_that_cannot_be_had_takes_no_other_with_it(machine: Path) -> None:
    program(machine, "go", GO)
    program(machine, "apt-get", APT)
    program(machine, "id", "echo 0")
    said, _, lacking = tools(machine).partition("not to be had here")
    assert "versitygw          v1.8.0" in said
    assert "busybox            from busybox-static" in said
    assert "kubeconform        go install failed: no such module" in lacking
    assert "containerd         apt-get install containerd failed: E: Unable to locate package containerd" in lacking
    assert "busybox" not in lacking
    assert (machine / "bin" / "apt-get.log").read_text().splitlines().count("update -qq") == 1
    again = tools(machine)
    assert "building versitygw" not in again
    assert "busybox            of the system" in again


def test_without_go_and_root_everything_is_lacking_with_a_reason(machine: Path) -> None:
    program(machine, "apt-get", APT)
    program(machine, "id", "echo 1000")
    _, _, lacking = tools(machine).partition("not to be had here")
    assert "versitygw          no Go toolchain on PATH" in lacking
    assert "busybox            not installed, and only root may: apt-get install busybox-static" in lacking


def test_containerd_2_is_taken_where_it_was_built_before_if_it_is_what_is_known_and_never_built_for_the_tests(
    machine: Path,
) -> None:
    program(machine, "go", GO)
    program(machine, "xz", 'cat "$2"')
    cached = machine / "shared" / "bin" / "containerd-2.xz"
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"#!/bin/sh\n")
    _, _, lacking = tools(machine).partition("not to be had here")
    assert "containerd-2       not built yet: make containerd (4 minutes with containerd-1)" in lacking
    with (machine / "house" / ".ci" / "known").open("a") as known:
        known.write(f"{hashlib.sha256(cached.read_bytes()).hexdigest()}  containerd-2 v2.3.4\n")
    assert "containerd-2       v2.3.4, built before" in tools(machine)
