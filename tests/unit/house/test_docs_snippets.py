"""What the documentation says can be typed, can be typed."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import snippets

HOUSE = Path(__file__).resolve().parents[3]
DOCUMENTS = [
    path for path in [*HOUSE.glob("*.md"), *HOUSE.glob("docs/*.md"), HOUSE / "loader-lib" / "README.md"] if path.exists()
]


def environment(folder: Path) -> dict[str, str]:
    """A new user's: the commands of this environment, an empty home, nothing of ours."""
    roots = [str(HOUSE / root) for root in ("cacher", "daemonset", "bench", "loader-lib")]
    path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}"
    return {"PATH": path, "HOME": str(folder), "LANG": "C.UTF-8", "NO_COLOR": "1", "PYTHONPATH": os.pathsep.join(roots)}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(HOUSE)))
def test_the_runnable_blocks_of_a_document_run(document: Path, tmp_path: Path) -> None:
    text = document.read_text()
    blocks = snippets.blocks_of(text)
    assert len(blocks) == text.splitlines().count("<!-- run -->"), "a marker without a fence right below it"
    for block in blocks:
        snippets.run(block, tmp_path, environment(tmp_path), timeout_s=120)


def test_blocks_are_found_by_their_marker() -> None:
    text = "a\n```python\nno\n```\n<!-- run -->\n```python\nprint(1)\n```\n\n<!-- run -->\n\n```console\n$ ls\n```\n"
    assert [(block.language, block.text, block.line) for block in snippets.blocks_of(text)] == [
        ("python", "print(1)\n", 6),
        ("console", "$ ls\n", 12),
    ]


def test_commands_are_told_from_what_they_print() -> None:
    commands = snippets.commands_of("$ a \\\n  b\nsaid\n...\n$ c\n")
    assert commands == [snippets.Command("a \\\n  b", "said\n...\n"), snippets.Command("c", "")]


def test_a_block_that_prints_something_else_fails(tmp_path: Path) -> None:
    def run(language: str, text: str) -> None:
        snippets.run(snippets.Block(language, text, 1), tmp_path, environment(tmp_path), timeout_s=20)

    run("console", "$ x=5\n$ echo one two $x\none ... 5\n$ echo anything\n")
    run("python", "open('made', 'w').close()\n")
    run("console", "$ ls\nmade\n")
    with pytest.raises(AssertionError, match="printed:\none"):
        run("console", "$ echo one\ntwo\n")
    with pytest.raises(AssertionError, match="exit status 3"):
        run("console", "$ echo said; exit 3\nsaid\n")
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        run("python", "1 / 0\n")
