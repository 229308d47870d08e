"""s3transfer: what boto3's download_file uses; plain URLs as anonymous path-style S3.

python -m prestage.bench.rivals.s3transfer SETTINGS   (JSON: endpoint, bucket, key, signed, connections, ca_bundle, output)
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

from prestage.bench.rivals.ports import Invocation, Target, Unfit, s3_of

_PART_BYTES = 16 << 20


def plan(target: Target, folder: Path) -> Invocation:
    """`download_file` with 16 MiB parts."""
    if importlib.util.find_spec("boto3") is None:
        raise Unfit("boto3 is not installed")
    source = s3_of(target)
    settings = {
        "endpoint": source.endpoint,
        "bucket": source.bucket,
        "key": source.key,
        "signed": source.signed,
        "connections": target.connections,
        "ca_bundle": str(target.ca_bundle) if target.ca_bundle else None,
        "output": str(folder / "object"),
    }
    module = (sys.executable, "-m", "prestage.bench.rivals.s3transfer")
    about = (sys.executable, "-c", "import boto3, s3transfer; print('boto3', boto3.__version__, s3transfer.__version__)")
    return Invocation((*module, json.dumps(settings)), about, folder / "object")


def main() -> None:
    """One download."""
    import boto3
    from boto3.s3.transfer import TransferConfig
    from botocore import UNSIGNED
    from botocore.config import Config

    settings: dict[str, Any] = json.loads(sys.argv[1])
    unsigned = {} if settings["signed"] else {"signature_version": UNSIGNED}
    client = boto3.client(
        "s3",
        endpoint_url=settings["endpoint"],
        region_name=None if settings["signed"] else "us-east-1",
        verify=settings["ca_bundle"],
        config=Config(max_pool_connections=settings["connections"] * 2, s3={"addressing_style": "path"}, **unsigned),
    )
    transfer = TransferConfig(
        multipart_chunksize=_PART_BYTES, max_concurrency=settings["connections"], preferred_transfer_client="classic"
    )
    client.download_file(settings["bucket"], settings["key"], settings["output"], Config=transfer)


if __name__ == "__main__":
    main()
