"""`prestage publish`: a directory becomes a prefix with a version."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click

from prestage.cacher.cli.session import json_option
from prestage.cacher.cli.terminal import Bar, JsonLines, human_bytes, human_seconds
from prestage.cacher.errors import Misconfigured
from prestage.cacher.publishing import Published, open_client
from prestage.cacher.publishing import publish as publish_folder
from prestage.cacher.refs import S3Ref, parse_ref
from prestage.cacher.staging.events import Events


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("ref")
@json_option
def publish(folder: Path, ref: str, as_json: bool) -> None:
    """Upload FOLDER below the prefix REF (s3://bucket/prefix/): bytes first, a manifest of digests last.

    Run again it goes on, by part: what is there with the same digest is not uploaded. `prestage stage REF` then takes
    just what was published, checked by SHA-256. Credentials and endpoint are those of staging.
    """
    parsed = parse_ref(ref)
    if not isinstance(parsed, S3Ref):
        raise Misconfigured(f"{ref} is no s3:// prefix", hint="prestage publish DIR s3://bucket/prefix/")
    client = open_client(os.environ)
    display = JsonLines() if as_json else Bar(f"publishing {parsed.name}")
    try:
        done = publish_folder(folder, parsed, client, watcher=Events(display.show))
    finally:
        client.close()
        display.stop()
    _tell(done, as_json=as_json)


def _tell(done: Published, *, as_json: bool) -> None:
    if as_json:
        row = {"event": "done", "ref": done.ref, "revision": done.revision, "files": done.files, "bytes": done.bytes}
        row |= {"uploaded_files": done.uploaded_files, "uploaded_bytes": done.uploaded_bytes}
        click.echo(json.dumps({**row, "resumed_bytes": done.resumed_bytes, "seconds": round(done.seconds, 3)}))
        return
    if done.was_there:
        click.echo(f"{done.revision}  {done.ref}  {done.files} files, {human_bytes(done.bytes)}: published already")
        return
    what = f"{done.uploaded_files} uploaded ({human_bytes(done.uploaded_bytes)}) in {human_seconds(done.seconds)}"
    what += f", gone on with {human_bytes(done.resumed_bytes)} of an earlier run" if done.resumed_bytes else ""
    click.echo(f"{done.revision}  {done.ref}  {done.files} files, {human_bytes(done.bytes)}: {what}")
