"""One small model, offered by each kind of server."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from offers import MODEL, WEIGHTS, Offer, make_bucket, put_object, write

from prestage.cacher.net.client import HttpClient
from servers.certs import Authority
from servers.hub import Hub
from servers.nginx import Nginx
from servers.versitygw import Versitygw

_BUCKETS = itertools.count()


@pytest.fixture
def client() -> Iterator[HttpClient]:
    made = HttpClient()
    yield made
    made.close()


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, versitygw: Versitygw) -> pytest.MonkeyPatch:
    """The process's environment leads to versitygw as its owner, and to no other AWS configuration."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in versitygw.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "aws-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "aws-credentials"))
    return monkeypatch


@pytest.fixture
def bucket(versitygw: Versitygw) -> str:
    """A bucket of this test's own."""
    name = f"origins-{next(_BUCKETS)}"
    make_bucket(versitygw, name)
    return name


@pytest.fixture
def s3_offer(aws: pytest.MonkeyPatch, versitygw: Versitygw, bucket: str) -> Offer:
    def put(path: str, content: bytes) -> None:
        put_object(versitygw, bucket, f"models/tiny/{path}", content)

    for path, content in MODEL.items():
        put(path, content)
    return Offer(f"s3://{bucket}/models/tiny/", dict(MODEL), put, f"s3://{bucket}/models/none/")


@pytest.fixture
def s3_virtual_offer(s3_offer: Offer, versitygw: Versitygw) -> Offer:
    s3_offer.environ = {
        "AWS_ENDPOINT_URL_S3": f"http://{versitygw.virtual_domain}:{versitygw.port}",
        "PRESTAGE_S3_STYLE": "virtual",
        "PRESTAGE_S3_CONNECT_TO": f"127.0.0.1:{versitygw.port}",
    }
    return s3_offer


@pytest.fixture
def file_offer(tmp_path: Path) -> Offer:
    root = tmp_path / "directory"
    for path, content in MODEL.items():
        write(root / path, content)
    return Offer(root.as_uri(), dict(MODEL), lambda path, content: write(root / path, content), f"{root.as_uri()}/none")


@pytest.fixture
def hub_offer(hub: Hub) -> Offer:
    root = hub.root / "org" / "tiny"
    for path, content in MODEL.items():
        write(root / path, content)
    hub.reload()
    environ = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": "/nonexistent"}
    return Offer(
        "hf://org/tiny",
        dict(MODEL),
        lambda path, content: write(root / path, content),
        "hf://org/none",
        environ,
        announce=hub.reload,
    )


@pytest.fixture
def http_offer(nginx: Nginx) -> Offer:
    return _nginx_offer(nginx, nginx.url("/tiny/model.safetensors"), None)


@pytest.fixture
def https_offer(nginx: Nginx, authority: Authority) -> Offer:
    return _nginx_offer(nginx, nginx.tls_url("/tiny/model.safetensors"), authority.ca)


def _nginx_offer(nginx: Nginx, url: str, ca: Path | None) -> Offer:
    folder = nginx.docroot / "tiny"
    shutil.rmtree(folder, ignore_errors=True)
    seconds = itertools.count(1_790_000_000)

    def put(path: str, content: bytes) -> None:
        write(folder / path, content)
        # nginx makes its ETag of size and whole seconds: two versions of one second would be one to it.
        second = next(seconds)
        os.utime(folder / path, (second, second))

    put("model.safetensors", WEIGHTS)
    return Offer(url, {"model.safetensors": WEIGHTS}, put, f"{url}.none", ca=ca)
