"""rclone: its http backend for URLs, its s3 backend for s3://; multi-thread streams in both."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from prestage.bench.rivals.ports import Invocation, Target, Unfit, program


def plan(target: Target, folder: Path) -> Invocation:
    """`copyto` with as many streams as connections, 16 MiB a chunk."""
    rclone = program("rclone")
    trust = ("--ca-cert", str(target.ca_bundle)) if target.ca_bundle else ()
    streams = ("--multi-thread-streams", str(target.connections), "--multi-thread-cutoff", "16M")
    command = (rclone, "copyto", "-q", "--config", "/dev/null", *trust, *streams, _source(target), str(folder / "object"))
    # its S3 library refuses to start when that is set, because rclone brings a transport of its own
    return Invocation(command, (rclone, "version"), folder / "object", {"AWS_CA_BUNDLE": ""})


def _source(target: Target) -> str:
    if target.url is not None:
        parts = urlsplit(target.url)
        if parts.query:
            raise Unfit("its http backend takes no query")
        return f':http,url="{parts.scheme}://{parts.netloc}":{unquote(parts.path).lstrip("/")}'
    if target.s3 is None:
        raise Unfit("needs AWS_ENDPOINT_URL for s3://")
    return f':s3,provider=Other,env_auth=true,endpoint="{target.s3.endpoint}":{target.s3.bucket}/{target.s3.key}'
