"""What is committed is what `make wire` makes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOM = Path(__file__).parents[3] / "daemonset"


@pytest.mark.parametrize("name", ["csi", "pluginregistration"])
def test_generating_again_gives_the_committed_files(tmp_path: Path, name: str) -> None:
    options = [f"-I{ROOM}", f"--python_out={tmp_path}", f"--pyi_out={tmp_path}", f"prestage/wire/{name}.proto"]
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", *options], check=True, timeout=60)
    made = {path.name: path.read_bytes() for path in (tmp_path / "prestage/wire").iterdir()}
    assert made.keys() == {f"{name}_pb2.py", f"{name}_pb2.pyi"}
    assert made == {file: (ROOM / "prestage/wire" / file).read_bytes() for file in made}
