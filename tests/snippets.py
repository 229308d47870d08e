"""Runnable blocks of the documentation: a fence right after the line `<!-- run -->`.

A `python` block is run as a script. In a `console` block the lines that begin with `$ ` are run by one bash (so that
variables last to the block's end), and what stands between them must be what they print; `...` stands for anything, an
empty expectation for any output. Every command must succeed. All blocks of a document share one folder, in order. What needs
more than this environment has is marked `<!-- run with NAME -->` and run by the tests that have it.
"""

from __future__ import annotations

import doctest
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_BLOCK = r"^<!-- {} -->\n+```(\w+)\n(.*?)^```$"
_MATCHING = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@dataclass(frozen=True, slots=True)
class Block:
    """`line` is where the fence begins."""

    language: str
    text: str
    line: int


@dataclass(frozen=True, slots=True)
class Command:
    command: str
    expected: str


def blocks_of(document: str, marker: str = "run") -> list[Block]:
    found = re.finditer(_BLOCK.format(re.escape(marker)), document, re.MULTILINE | re.DOTALL)
    return [Block(match[1], match[2], document.count("\n", 0, match.start(1)) + 1) for match in found]


def commands_of(block: str) -> list[Command]:
    """Commands, with the lines up to the next one as expectation. A trailing backslash continues a command."""
    commands: list[Command] = []
    continues = False
    for line in block.splitlines():
        if continues:
            last = commands.pop()
            commands.append(Command(f"{last.command}\n{line}", ""))
        elif line.startswith("$ "):
            commands.append(Command(line[2:], ""))
        elif commands:
            last = commands.pop()
            commands.append(Command(last.command, f"{last.expected}{line}\n"))
        else:
            raise ValueError(f"a console block begins with `$ `, this one with {line!r}")
        continues = line.endswith("\\") and not commands[-1].expected
    return commands


def run(block: Block, folder: Path, environment: Mapping[str, str], timeout_s: float) -> None:
    """Run it in `folder`; AssertionError tells the document's line and what was printed instead."""
    if block.language == "python":
        _checked([sys.executable, "-c", block.text], block, folder, environment, timeout_s)
        return
    if block.language != "console":
        raise ValueError(f"line {block.line}: only python and console blocks can be run, not {block.language}")
    commands = commands_of(block.text)
    separator = "-- end of command --"
    script = "set -euo pipefail\n" + "".join(f"{{ {one.command}\n}} 2>&1; echo '{separator}'\n" for one in commands)
    printed = _checked(["bash", "-c", script], block, folder, environment, timeout_s).split(f"{separator}\n")
    for one, said in zip(commands, printed, strict=False):
        fits = doctest.OutputChecker().check_output(one.expected, said, _MATCHING)
        assert fits or not one.expected.strip(), f"line {block.line}: `{one.command}` printed:\n{said}"


def _checked(argv: list[str], block: Block, folder: Path, environment: Mapping[str, str], timeout_s: float) -> str:
    done = subprocess.run(
        argv,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert done.returncode == 0, f"line {block.line}: exit status {done.returncode}:\n{done.stdout}"
    return done.stdout
