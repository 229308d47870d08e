"""The bench against real servers: HTTPS with an own CA, and S3 with signatures."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from prestage.bench import fetch, start
from prestage.bench.checkpoint import Checkpoint
from prestage.bench.reference import read_reference
from prestage.bench.rivals.known import OURS, RIVALS
from prestage.bench.rivals.ports import Target
from servers.certs import Authority
from servers.nginx import Nginx
from servers.versitygw import Versitygw


@pytest.fixture(autouse=True)
def _do_not_wait_for_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "_QUIET_WAIT_S", 0.0)


def _measure(target: Target, scratch: Path) -> fetch.FetchResult:
    scratch.mkdir()
    return fetch.measure(fetch.FetchJob(target, scratch, (OURS, *RIVALS), rounds=1), read_reference(target), lambda _: None)


def test_every_tool_trusts_the_ca_it_is_given(nginx: Nginx, authority: Authority, model: Checkpoint, tmp_path: Path) -> None:
    bucket = nginx.docroot / "bucket"
    bucket.mkdir()
    shutil.copy(model.shards[0], bucket / "object.bin")
    result = _measure(Target(nginx.tls_url("/bucket/object.bin"), 4, authority.ca), tmp_path / "out")
    assert result.failed == {}
    assert OURS in result.tools


@pytest.fixture
def bucket(versitygw: Versitygw, model: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> str:
    """Holds the model under `models/tiny/`; this process and its children have the keys."""
    for name, value in versitygw.environment.items():
        monkeypatch.setenv(name, value)
    client = versitygw.client()
    client.create_bucket(Bucket="bench")
    for file in model.directory.iterdir():
        client.upload_file(str(file), "bench", f"models/tiny/{file.name}")
    client.close()
    return "bench"


def test_s3_tools_sign_and_the_others_sit_out(versitygw: Versitygw, bucket: str, model: Checkpoint, tmp_path: Path) -> None:
    ref = f"s3://{bucket}/models/tiny/{model.shards[0].name}"
    result = _measure(Target(ref, 4, endpoint=versitygw.url), tmp_path / "out")
    assert result.failed == {}
    assert {"curl", "huggingface_hub"} <= set(result.skipped)
    assert {OURS, "s3transfer"} <= set(result.tools)
    cold = start.StartJob(f"s3://{bucket}/models/tiny/", tmp_path / "store", tmp_path, rounds=1)
    started = start.measure(cold, lambda _: None)
    assert started.to_json()["cold_client"] == "boto3"
    assert started.phase(start.COLD, "fetch").median > 0
