"""s5cmd: the fastest S3 client in Go; plain URLs as anonymous path-style S3."""

from __future__ import annotations

from pathlib import Path

from prestage.bench.rivals.ports import Invocation, Target, program, s3_of

_PART_MIB = 16


def plan(target: Target, folder: Path) -> Invocation:
    """`cp` of one object in parts."""
    s5cmd, source = program("s5cmd"), s3_of(target)
    unsigned = () if source.signed else ("--no-sign-request",)
    # a plain server knows nothing of buckets: do not ask it in which region this one is
    region = () if source.signed else ("--source-region", "us-east-1")
    copy = ("cp", "--concurrency", str(target.connections), "--part-size", str(_PART_MIB), *region)
    where = (f"s3://{source.bucket}/{source.key}", str(folder / "object"))
    command = (s5cmd, "--endpoint-url", source.endpoint, *unsigned, "--log", "error", *copy, *where)
    trust = {"SSL_CERT_FILE": str(target.ca_bundle), "AWS_CA_BUNDLE": str(target.ca_bundle)} if target.ca_bundle else {}
    return Invocation(command, (s5cmd, "version"), folder / "object", trust)
