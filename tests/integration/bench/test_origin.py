"""The demo's origin against the clients that matter: huggingface_hub unmodified, and plain HTTP."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from prestage.bench.checkpoint import Checkpoint
from prestage.bench.origin.process import Origin, Served, serving
from prestage.cacher.errors import NotFound, Unavailable

NAME = "prestage/tiny"
_DOWNLOAD = "import sys, huggingface_hub as h; print(h.snapshot_download(sys.argv[1], cache_dir=sys.argv[2]))"


def _url(origin: Origin, path: str) -> str:
    return f"{origin.endpoint}/files/{NAME}/{path}"


def _get(url: str, **headers: str) -> tuple[int, bytes, dict[str, str]]:
    request = urllib.request.Request(url, headers={name.replace("_", "-"): value for name, value in headers.items()})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read(), dict(answer.headers)
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code, refused.read(), dict(refused.headers)


def test_huggingface_hub_gets_every_file_right(origin: Origin, model: Checkpoint, tmp_path: Path) -> None:
    environment = {**os.environ, "HF_ENDPOINT": origin.endpoint, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, "-c", _DOWNLOAD, NAME, str(tmp_path / "cache")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
    folder = Path(done.stdout.strip())
    found = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()}
    assert found == model.sha256


def test_ranges_validators_and_heads_are_honoured(origin: Origin, model: Checkpoint) -> None:
    shard = model.shards[0]
    whole = shard.read_bytes()
    status, body, headers = _get(_url(origin, shard.name), Range="bytes=100-299")
    assert (status, body) == (206, whole[100:300])
    assert headers["Content-Range"] == f"bytes 100-299/{len(whole)}"
    assert _get(_url(origin, shard.name), Range="bytes=-10")[1] == whole[-10:]
    assert _get(_url(origin, shard.name), Range=f"bytes={len(whole)}-")[0] == 416
    assert _get(_url(origin, shard.name), If_Match=headers["ETag"])[1] == whole
    assert _get(_url(origin, shard.name), If_Match='"another"')[0] == 412
    head = urllib.request.Request(_url(origin, shard.name), method="HEAD")
    with urllib.request.urlopen(head, timeout=10) as answer:
        assert int(answer.headers["Content-Length"]) == len(whole)
        assert answer.read() == b""


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/api/models/no/such", "RepoNotFound"),
        (f"/api/models/{NAME}/revision/v9", "RevisionNotFound"),
        (f"/{NAME}/resolve/main/absent.bin", "EntryNotFound"),
        ("/cdn/" + "0" * 64, "EntryNotFound"),
        (f"/files/{NAME}/../../etc/passwd", "EntryNotFound"),
    ],
)
def test_what_is_not_there_is_refused_in_the_hubs_words(origin: Origin, path: str, code: str) -> None:
    status, body, headers = _get(origin.endpoint + path)
    assert (status, headers["X-Error-Code"]) == (404, code)
    assert json.loads(body)["error"]


def test_the_link_holds_for_all_connections_together(model: Checkpoint) -> None:
    size = model.shards[0].stat().st_size
    with serving({NAME: Served(model.directory, model.sha256)}, bytes_per_s=size * 4) as origin:
        url = _url(origin, model.shards[0].name)
        fetch = [sys.executable, "-c", "import sys, urllib.request as u; u.urlopen(sys.argv[1], timeout=20).read()", url]
        began = time.monotonic()
        running = [subprocess.Popen(fetch) for _ in range(3)]
        assert [process.wait(30) for process in running] == [0, 0, 0]
        # 3 times a quarter of a second; alone each would need a third of that
        assert time.monotonic() - began >= 0.74


def test_the_origin_ends_with_its_block(model: Checkpoint) -> None:
    with serving({NAME: Served(model.directory, model.sha256)}, bytes_per_s=None) as origin:
        assert Path(f"/proc/{origin.pid}").exists()
    assert not Path(f"/proc/{origin.pid}").exists()


def test_a_folder_that_is_missing_is_told_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="is missing"), serving({NAME: Served(tmp_path / "absent")}, bytes_per_s=None):
        pytest.fail("it started")


def test_an_origin_that_is_not_ready_in_time_is_ended(model: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prestage.bench.origin.process._START_S", 0.0)
    with pytest.raises(Unavailable, match="did not start"), serving({NAME: Served(model.directory)}, bytes_per_s=None):
        pytest.fail("it started")
