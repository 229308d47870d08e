"""versitygw: a real S3 server over folders. SigV4, versions, multipart, CRC64NVME; checked as strictly as S3 checks.

root/buckets/<bucket>/<key>     a file copied here by hand is an object without ETag
root/versions/  root/users/     old versions, accounts
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import boto3
from botocore.config import Config

from servers.certs import Authority
from servers.programs import Program, find, free_port

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


class Versitygw:
    """`url` takes path-style requests; `<bucket>.s3.localhost:<port>` names a bucket in virtual-host style (connect to
    127.0.0.1). With an authority it speaks TLS only. The keys belong to this server alone. `host`: where the nodes of a
    cluster reach it."""

    def __init__(self, root: Path, *, authority: Authority | None = None, host: str = "127.0.0.1") -> None:
        self.root = root.resolve()
        self.buckets = self.root / "buckets"
        folders = [self.buckets, self.root / "versions", self.root / "users"]
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
        self.access_key = "AKTEST"
        self.secret_key = "SKTEST"
        self.region = "us-east-1"
        self.virtual_domain = "s3.localhost"
        self.port = free_port(host)
        self.ca = None if authority is None else authority.ca
        self.url = f"http://{host}:{self.port}" if authority is None else f"https://localhost:{self.port}"
        argv: list[str | Path] = [
            "versitygw",
            "--port",
            f"{host}:{self.port}",
            "--access",
            self.access_key,
            "--secret",
            self.secret_key,
        ]
        argv += ["--region", self.region, "--keep-alive", "--quiet", "--virtual-domain", self.virtual_domain]
        argv += [] if authority is None else ["--cert", authority.certificate.resolve(), "--key", authority.key.resolve()]
        argv += ["--iam-dir", folders[2], "posix", "--versioning-dir", folders[1], self.buckets]
        self.program = Program(argv, port=self.port, log=self.root / "versitygw.log", host=host)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @property
    def environment(self) -> dict[str, str]:
        """What a client process needs to use this server: keys, region, endpoint, CA."""
        ca = {} if self.ca is None else {"AWS_CA_BUNDLE": str(self.ca)}
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_ENDPOINT_URL": self.url,
            **ca,
        }

    def client(self) -> S3Client:
        """boto3's client as the owner; the caller closes it."""
        return boto3.client(
            "s3",
            endpoint_url=self.url,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name=self.region,
            verify=None if self.ca is None else str(self.ca),
            config=Config(signature_version="s3v4", s3={"addressing_style": "path"}),
        )

    def user(self, access_key: str, secret_key: str) -> None:
        """Another account, which may do nothing yet."""
        owner = ["--access", self.access_key, "--secret", self.secret_key, "--endpoint-url", self.url]
        made = ["create-user", "--access", access_key, "--secret", secret_key, "--role", "user"]
        argv = [str(find("versitygw")), "admin", *owner, *made]
        subprocess.run(argv, check=True, capture_output=True, timeout=30)

    def let(self, bucket: str, *access_keys: str) -> None:
        """These accounts may list and read the bucket, no others."""
        s3 = self.client()
        try:
            if not access_keys:
                s3.delete_bucket_policy(Bucket=bucket)
                return
            said = {"Effect": "Allow", "Principal": list(access_keys), "Action": ["s3:GetObject", "s3:ListBucket"]}
            said["Resource"] = [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"]
            s3.put_bucket_policy(Bucket=bucket, Policy=json.dumps({"Version": "2012-10-17", "Statement": [said]}))
        finally:
            s3.close()

    def close(self) -> None:
        self.program.close()
