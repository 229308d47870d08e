"""The command `prestage` as its users run it: a process of its own, on a root of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass
class Result:
    """What a run left behind."""

    code: int
    out: str
    err: str

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def last(self) -> dict[str, Any]:
        return self.events[-1]


@dataclass
class Prestage:
    """The command, on one root."""

    root: Path
    env: Mapping[str, str]

    def start(self, *words: str) -> subprocess.Popen[str]:
        environ = {**os.environ, **self.env, "PRESTAGE_ROOT": str(self.root)}
        command = [sys.executable, "-m", "prestage.cacher.cli", *words]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ)

    def __call__(self, *words: str) -> Result:
        process = self.start(*words)
        out, err = process.communicate(timeout=120)
        assert "Traceback" not in err, err
        return Result(process.returncode, out, err)
