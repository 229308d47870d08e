"""`python -m prestage.cacher.serving --root DIR --token-file FILE`: serving alone, for tests and measurements."""

from __future__ import annotations

import json
import signal
import sys
import threading
from pathlib import Path

import click

from prestage.cacher.errors import PrestageError
from prestage.cacher.serving.config import ServingConfig
from prestage.cacher.serving.supervisor import Serving


@click.command()
@click.option("--root", type=click.Path(path_type=Path, file_okay=False), required=True, help="The store; only read.")
@click.option("--token-file", type=click.Path(path_type=Path, dir_okay=False), required=True, help="One token a line.")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=0, show_default=True, help="0: any free one; printed.")
@click.option("--workers", default=2, show_default=True)
@click.option("--rate", type=float, help="Upload cap in bytes a second.")
def main(root: Path, token_file: Path, host: str, port: int, workers: int, rate: float | None) -> None:
    """Serve the blobs of a store until SIGTERM or Ctrl-C; prints one JSON line with the port first."""
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    try:
        config = ServingConfig(root, token_file, host, port, workers, rate_bytes_per_s=rate)
        with Serving(config) as serving:
            click.echo(json.dumps({"port": serving.port}))
            sys.stdout.flush()
            ended.wait()
    except PrestageError as exc:
        click.echo(f"serving: {exc}", err=True)
        raise SystemExit(exc.exit_code) from exc


if __name__ == "__main__":
    main()
