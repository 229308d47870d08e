"""A serving script from its first line to its tensors: `python -m prestage.bench.load_script PART FRAMEWORK FOLDER`.

    script-import   the interpreter and the framework, nothing read
    script-read     the interpreter and the whole model, no framework
    script          start(folder), then the framework, then open_model: what a user writes

Prints FIRST when the first tensor may be used and ALL when every one may; whoever started the process holds the clock.
"""

from __future__ import annotations

import importlib
import sys

PARTS = ("script-import", "script-read", "script")
_MODULES = {"pt": "torch", "np": "numpy"}


def run(part: str, framework: str, folder: str) -> None:
    """One part."""
    if part == "script-import":
        importlib.import_module(_MODULES[framework])
        _say("FIRST")
    else:
        _load("dlpack" if part == "script-read" else framework, folder, begins=part == "script")
    _say("ALL")


def _load(framework: str, folder: str, *, begins: bool) -> None:
    import prestage.loader

    if begins:
        prestage.loader.start(folder, verify="off")
        importlib.import_module(_MODULES[framework])
    with prestage.loader.open_model(folder, framework=framework, verify="off") as model:
        for number, _ in enumerate(model.items()):
            if not number:
                _say("FIRST")


def _say(what: str) -> None:
    print(what, flush=True)  # noqa: T201 - to the parent


if __name__ == "__main__":
    run(*sys.argv[1:4])
