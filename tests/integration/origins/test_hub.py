"""hf:// against the test hub, with the unmodified huggingface_hub as the oracle, and with what makes that one give up."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from offers import MODEL, WEIGHTS, Offer, Reader, reader, repository
from transfers import MemorySink

from prestage.cacher.errors import Denied, NotFound, PrestageError, Unavailable
from prestage.cacher.net.client import HttpClient
from prestage.cacher.net.ports import HttpRequest
from prestage.cacher.origins.hub_answers import NoRepository
from prestage.cacher.origins.ports import Selection
from prestage.cacher.origins.source import OriginSource
from prestage.cacher.transfer.engine import Engine
from prestage.cacher.transfer.flight import Transfer
from prestage.cacher.transfer.limits import Limits
from prestage.cacher.transfer.ports import Fatal, Retry
from servers.hostile import Hostile
from servers.hub import Hub

_SNAPSHOT = """
import hashlib, json, pathlib, sys
from huggingface_hub import snapshot_download
root = pathlib.Path(snapshot_download(sys.argv[1], revision=sys.argv[2] or None, cache_dir=sys.argv[3]))
files = [path for path in root.rglob("*") if path.is_file()]
sums = {path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
print(json.dumps({"commit": root.name, "files": sums}))
"""


def at_hub(
    hub: Hub, client: HttpClient, ref: str = "hf://org/tiny", selection: Selection | None = None, **environ: str
) -> Reader:
    given = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": "/nonexistent", **environ}
    return reader(Offer(ref, {}, lambda path, content: None, ref, given), client, selection)


def refused(hub: Hub, client: HttpClient, ref: str, **environ: str) -> PrestageError:
    with pytest.raises(PrestageError) as error:
        at_hub(hub, client, ref, None, **environ)
    assert "\n" not in str(error.value)
    assert error.value.hint
    for secret in ("hf_ok", "hf_other"):
        assert secret not in str(error.value)
    return error.value


def snapshot(hub: Hub, name: str, revision: str, cache: Path, environ: Mapping[str, str]) -> dict[str, object]:
    pytest.importorskip("huggingface_hub")
    env = {"HF_ENDPOINT": hub.endpoint, "HF_HUB_DISABLE_XET": "1", "PATH": "/usr/bin:/bin", "HF_HOME": str(cache), **environ}
    done = subprocess.run(
        [sys.executable, "-c", _SNAPSHOT, name, revision, str(cache)],
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


REPOSITORIES: dict[str, tuple[str, str, dict[str, object], dict[str, str]]] = {
    "public": ("org/public", "", {}, {}),
    "a branch with a slash": ("org/branched", "feat/x", {"branches": {"feat/x": "sub dir"}}, {}),
    "gated": ("org/gated", "", {"gated": True, "tokens": ["hf_ok"]}, {"HF_TOKEN": "hf_ok"}),
    "private": ("org/private", "", {"private": True, "tokens": ["hf_ok"]}, {"HF_TOKEN": "hf_ok"}),
    "with xet": ("org/xet", "", {"xet": True}, {}),
}


@pytest.mark.parametrize("case", REPOSITORIES)
def test_the_files_and_their_bytes_are_those_of_snapshot_download(
    case: str, hub: Hub, client: HttpClient, tmp_path: Path
) -> None:
    name, revision, settings, environ = REPOSITORIES[case]
    repository(hub, name, {**MODEL, "extra/vocab.txt": b"a\nb\n"}, **settings)
    theirs = snapshot(hub, name, revision, tmp_path / "cache", environ)
    ref = f"hf://{name}@{revision}" if revision else f"hf://{name}"
    at = at_hub(hub, client, ref, Selection(include=("*",)), **environ)
    assert at.manifest.revision == theirs["commit"]
    ours = {file.path: hashlib.sha256(at.read(file) if file.size_bytes else b"").hexdigest() for file in at.manifest.files}
    assert ours == theirs["files"]


def test_a_commit_needs_no_revision_call_and_a_branch_resolves_to_one(hub: Hub, client: HttpClient) -> None:
    repository(hub, "org/tiny", MODEL)
    branch = at_hub(hub, client).manifest
    hub.log.clear()
    commit = at_hub(hub, client, f"hf://org/tiny@{hub.commit('org/tiny')}").manifest
    assert commit.artifact == branch.artifact
    assert not [seen for seen in hub.log if "/revision/" in seen.path]


def test_a_listing_comes_page_by_page(hub: Hub, client: HttpClient) -> None:
    repository(hub, "org/tiny", {f"part-{number:03}.txt": b"x" for number in range(25)})
    hub.faults.page = 4
    assert len(at_hub(hub, client).manifest.files) == 25
    assert len([seen for seen in hub.log if "/tree/" in seen.path]) == 7


def test_a_renamed_repository_is_found_under_its_old_name(hub: Hub, client: HttpClient) -> None:
    repository(hub, "org/tiny", MODEL)
    repository(hub, "org/old", {}, renamed_to="org/tiny")
    at = at_hub(hub, client, "hf://org/old")
    assert at.manifest.revision == hub.commit("org/tiny")
    for file in at.manifest.files:
        assert at.read(file) == MODEL[file.path] if file.size_bytes else True


def test_the_token_stays_with_the_hub(hub: Hub, client: HttpClient) -> None:
    repository(hub, "org/tiny", MODEL, gated=True, tokens=["hf_ok"])
    at = at_hub(hub, client, HF_TOKEN="hf_ok")
    for file in at.manifest.files:
        if file.size_bytes:
            at.read(file)
    at_cdn = [seen for seen in hub.log if seen.path.startswith("/repos/")]
    assert at_cdn
    assert not any(seen.authorized for seen in at_cdn)
    assert all(seen.authorized for seen in hub.log if not seen.path.startswith("/repos/"))
    assert b"hf_ok" not in at.manifest.to_bytes()


REFUSALS: dict[str, tuple[str, dict[str, str], type[PrestageError], str]] = {
    "gated, no token": ("hf://org/gated", {}, Denied, "set HF_TOKEN"),
    "gated, another token": ("hf://org/gated", {"HF_TOKEN": "hf_other"}, Denied, "with the token from HF_TOKEN"),
    "private, no token": ("hf://org/private", {}, NoRepository, "if it is private, set HF_TOKEN"),
    "private, another token": ("hf://org/private", {"HF_TOKEN": "hf_other"}, NoRepository, "with the token from HF_TOKEN"),
    "not a token": ("hf://org/tiny", {"HF_TOKEN": "nonsense"}, Denied, "not accepted"),
    "no repository": ("hf://org/none", {}, NoRepository, "check the name"),
    "no repository, with a token": ("hf://org/none", {"HF_TOKEN": "hf_ok"}, NoRepository, "check the name"),
    "no revision": ("hf://org/tiny@nope", {}, NotFound, "no such revision"),
    "no commit": (f"hf://org/tiny@{'0' * 40}", {}, NotFound, "no such revision"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_each_refusal_has_its_class_and_says_which_token_was_used(case: str, hub: Hub, client: HttpClient) -> None:
    repository(hub, "org/tiny", MODEL)
    repository(hub, "org/gated", MODEL, gated=True, tokens=["hf_ok"])
    repository(hub, "org/private", MODEL, private=True, tokens=["hf_ok"])
    ref, environ, kind, says = REFUSALS[case]
    error = refused(hub, client, ref, **environ)
    assert type(error) is kind
    assert says in str(error)


def test_a_token_from_a_file_is_named_by_its_path(hub: Hub, client: HttpClient, tmp_path: Path) -> None:
    repository(hub, "org/gated", MODEL, gated=True, tokens=["hf_ok"])
    (tmp_path / "token").write_text("hf_other\n")
    assert str(tmp_path / "token") in str(refused(hub, client, "hf://org/gated", HF_HOME=str(tmp_path)))
    (tmp_path / "token").write_text("hf_ok\n")
    assert at_hub(hub, client, "hf://org/gated", HF_HOME=str(tmp_path)).manifest.files


def test_a_rate_limit_is_waited_out_as_long_as_it_says(hub: Hub, client: HttpClient) -> None:
    repository(hub, "org/tiny", MODEL)
    hub.faults.rate_limit, hub.faults.rate_reset_s = 1, 1
    began = time.monotonic()
    assert at_hub(hub, client).manifest.files
    assert time.monotonic() - began >= 1
    hub.faults.rate_limit, hub.faults.rate_reset_s = 1, 290
    error = refused(hub, client, "hf://org/tiny")
    assert isinstance(error, Unavailable)
    assert "290 s" in str(error)


def test_a_rate_limit_on_a_file_is_passed_to_the_engine_with_its_length(hub: Hub, client: HttpClient) -> None:
    repository(hub, "org/tiny", MODEL)
    at = at_hub(hub, client)
    file = next(file for file in at.manifest.files if file.path == "model.safetensors")
    hub.faults.rate_limit, hub.faults.rate_reset_s = 1, 55
    with pytest.raises(Retry) as later:
        at.read(file)
    assert (later.value.after_s, later.value.congested) == (55, True)
    assert at.read(file) == WEIGHTS


def test_a_signed_url_is_looked_up_once_for_all_pieces_of_a_file(hub: Hub, client: HttpClient) -> None:
    repository(hub, "org/tiny", MODEL)
    at = at_hub(hub, client)
    file = next(file for file in at.manifest.files if file.path == "model.safetensors")
    for start in range(0, 100, 10):
        at.read(file, start, start + 10)
    assert len([seen for seen in hub.log if seen.path.endswith("/model.safetensors") and seen.method == "HEAD"]) == 1


def test_a_signed_url_that_is_about_to_end_is_looked_up_again_before_it_is_refused(hub: Hub, client: HttpClient) -> None:
    repository(hub, "org/tiny", MODEL)
    hub.faults.cdn_ttl_s = 2
    at = at_hub(hub, client)
    file = next(file for file in at.manifest.files if file.path == "model.safetensors")
    at.read(file, 0, 10)
    time.sleep(2.1)
    assert at.read(file, 10, 20) == WEIGHTS[10:20]
    assert not [seen for seen in hub.log if seen.status == 403]


def test_a_signed_url_that_was_refused_is_looked_up_again(hub: Hub, client: HttpClient) -> None:
    repository(hub, "org/tiny", MODEL)
    at = at_hub(hub, client)
    file = next(file for file in at.manifest.files if file.path == "model.safetensors")
    at.read(file, 0, 10)
    hub.faults.cdn_fails, hub.faults.cdn_status = 1, 403
    with pytest.raises(Retry, match="refuses the signed URL"):
        at.read(file, 10, 20)
    assert at.read(file, 10, 20) == WEIGHTS[10:20]


def test_a_cdn_that_refuses_every_fresh_url_ends_the_transfer(hub: Hub, client: HttpClient) -> None:
    repository(hub, "org/tiny", MODEL)
    at = at_hub(hub, client)
    file = next(file for file in at.manifest.files if file.path == "model.safetensors")
    hub.faults.cdn_fails, hub.faults.cdn_status = 100, 403
    for _ in range(2):
        with pytest.raises(Retry):
            at.read(file)
    with pytest.raises(Fatal) as ended:
        at.read(file)
    assert isinstance(ended.value.error, Denied)


def test_small_files_that_the_hub_would_compress_come_as_they_are(hub: Hub, client: HttpClient) -> None:
    repository(hub, "org/tiny", {"config.json": b'{"a": 1}' * 500})
    hub.faults.gzip = True
    at = at_hub(hub, client)
    assert at.read(at.manifest.files[0]) == b'{"a": 1}' * 500


def test_a_transfer_survives_all_that_the_hubs_own_client_gives_up_on(hub: Hub, client: HttpClient) -> None:
    repository(hub, "org/tiny", MODEL)
    hub.faults.cdn_ttl_s = 1
    at = at_hub(hub, client)
    file = next(file for file in at.manifest.files if file.path == "model.safetensors")
    hub.faults.cdn_fails, hub.faults.cuts, hub.faults.rate_limit = 3, 2, 1
    sink = MemorySink(file.size_bytes)
    transfer = Transfer(file.path, OriginSource(at.origin, client, at.manifest, file, "lane"), sink)
    with Engine(Limits()) as engine:
        job = engine.fetch([transfer])
    assert bytes(sink.data) == WEIGHTS
    assert job.retries >= 5


def test_an_endpoint_that_answers_but_is_no_hub_is_told_with_what_to_check(hub: Hub, client: HttpClient) -> None:
    with Hostile({"/api/models/org/tiny/revision/main": b"<html>welcome</html>"}) as other:
        error = refused(hub, client, "hf://org/tiny", HF_ENDPOINT=other.url(""))
    assert isinstance(error, Unavailable)
    assert "HF_ENDPOINT" in str(error)


def test_what_is_requested_at_the_cdn_is_ready_to_send(hub: Hub, client: HttpClient) -> None:
    repository(hub, "org/tiny", MODEL)
    at = at_hub(hub, client)
    file = next(file for file in at.manifest.files if file.path == "model.safetensors")
    request = at.origin.request(at.manifest, file)
    assert isinstance(request, HttpRequest)
    assert request.url.startswith(f"{hub.cdn}/")
    assert not request.headers
