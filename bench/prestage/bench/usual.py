"""How pods get a model today: the client that people use for each kind of ref, into an empty folder. Used in the cold run.

    hf://     huggingface_hub.snapshot_download, endpoint and token from its own environment
    s3://     boto3's download_file for every key below the prefix
    https://  one GET (http.client under urllib)
    file://   a copy

Imports are split off (`import_client`), so that a run can tell the import's time from the download's.
"""

from __future__ import annotations

import importlib
import os
import shutil
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

from prestage.cacher.errors import Misconfigured, NotFound

_MODULES = {"hf": "huggingface_hub", "s3": "boto3", "http": "urllib.request", "https": "urllib.request", "file": "shutil"}
_COPY_BYTES = 1 << 20


def client_of(ref: str) -> str:
    """The client's module, e.g. `huggingface_hub`.

    Raises:
        Misconfigured: no client is known for this scheme.
    """
    scheme = urlsplit(ref).scheme
    if scheme not in _MODULES:
        raise Misconfigured(f"no usual client is known for {scheme}://", hint=f"use one of {', '.join(_MODULES)}")
    return _MODULES[scheme]


def import_client(ref: str) -> None:
    """What `fetch` will need, into sys.modules.

    Raises:
        Misconfigured: it is not installed.
    """
    name = client_of(ref)
    try:
        importlib.import_module(name)
    except ImportError as exc:
        raise Misconfigured(f"the usual client {name} is not installed", hint=f"pip install {name}") from exc


def fetch(ref: str, folder: Path) -> Path:
    """Download `ref` into `folder`, as a pod without a cache does. Returns the model's directory."""
    scheme = urlsplit(ref).scheme
    if scheme == "hf":
        return _fetch_hub(ref, folder)
    if scheme == "s3":
        return _fetch_s3(ref, folder)
    if scheme == "file":
        return _copy(Path(urlsplit(ref).path), folder)
    return _fetch_url(ref, folder)


def _fetch_hub(ref: str, folder: Path) -> Path:
    from huggingface_hub import snapshot_download

    name, _, revision = ref.removeprefix("hf://").partition("@")
    return Path(snapshot_download(name.strip("/"), revision=revision or None, cache_dir=folder))


def _fetch_s3(ref: str, folder: Path) -> Path:
    import boto3

    parts = urlsplit(ref)
    prefix = parts.path.lstrip("/")
    client = boto3.client("s3", endpoint_url=os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"))
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=parts.netloc, Prefix=prefix)
    keys = [entry["Key"] for page in pages for entry in page.get("Contents", []) if not entry["Key"].endswith("/")]
    if not keys:
        raise NotFound(f"nothing is stored under {ref}", hint="check bucket and prefix")
    base = prefix if prefix.endswith("/") else prefix.rpartition("/")[0]
    for key in keys:
        target = folder / key.removeprefix(base).lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        client.download_file(parts.netloc, key, str(target))
    return folder


def _fetch_url(ref: str, folder: Path) -> Path:
    url = ref.partition("#")[0]
    target = folder / (Path(urlsplit(url).path).name or "file")
    with urllib.request.urlopen(url) as source, open(target, "wb") as sink:  # noqa: S310 - the user's own ref
        shutil.copyfileobj(source, sink, _COPY_BYTES)
    return folder


def _copy(source: Path, folder: Path) -> Path:
    if source.is_dir():
        return Path(shutil.copytree(source, folder / source.name))
    shutil.copy(source, folder)
    return folder
