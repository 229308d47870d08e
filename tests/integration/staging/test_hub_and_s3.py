"""Staging from a hub and from a real S3 server, through what goes wrong there."""

from __future__ import annotations

import json
import random
import uuid
from dataclasses import replace
from pathlib import Path

import pytest
from commands import Prestage

from prestage.cacher.digests import PIECE_BYTES
from servers.hub import Hub
from servers.toxiproxy import Toxiproxy
from servers.versitygw import Versitygw

WEIGHTS = random.Random(5).randbytes(2 * PIECE_BYTES + 999)
REF = "hf://org/model@main"


@pytest.fixture
def hub_store(prestage: Prestage, hub: Hub) -> Prestage:
    folder = hub.root / "org" / "model"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"model_type": "x"}')
    (folder / "model.safetensors").write_bytes(WEIGHTS)
    (folder / "pytorch_model.bin").write_bytes(b"a second copy")
    hub.reload()
    return with_env(prestage, HF_ENDPOINT=hub.endpoint, HF_HOME=str(prestage.root.parent / "hf"))


def with_env(prestage: Prestage, **environ: str) -> Prestage:
    return replace(prestage, env={**prestage.env, **environ})


def settings(hub: Hub, **values: object) -> None:
    (hub.root / "org" / "model" / ".hub.json").write_text(json.dumps(values))
    hub.reload()


def test_a_repository_is_staged_at_its_commit_without_second_copies(hub_store: Prestage, hub: Hub) -> None:
    staged = hub_store("stage", REF, "--json")
    assert staged.code == 0, staged.err
    view = Path(staged.last["path"])
    assert (view / "model.safetensors").read_bytes() == WEIGHTS
    assert sorted(path.name for path in view.iterdir()) == ["config.json", "model.safetensors"]
    manifest = json.loads((view.parent / ".prestage" / "current" / "manifest.json").read_bytes())
    assert manifest["revision"] == hub.commit("org/model")
    assert not any(seen.authorized for seen in hub.log if "/repos/" in seen.path)


def test_two_nodes_give_one_artifact_its_name_before_and_after_the_bytes_are_there(hub_store: Prestage, tmp_path: Path) -> None:
    here = hub_store("stage", REF, "--json")
    there = replace(hub_store, root=tmp_path / "other")("stage", REF, "--json")
    again = hub_store("stage", REF, "--json")
    assert here.last["artifact"] == there.last["artifact"] == again.last["artifact"] == here.events[0]["artifact"]


def test_a_new_revision_fetches_only_what_changed(hub_store: Prestage, hub: Hub) -> None:
    first = hub_store("stage", REF, "--json")
    (hub.root / "org" / "model" / "config.json").write_text('{"model_type": "y"}')
    hub.reload()
    second = hub_store("stage", REF, "--json")
    assert second.last["artifact"] != first.last["artifact"]
    assert second.last["bytes_by_source"] == {"origin": 19, "store": len(WEIGHTS)}


def test_what_the_usual_client_gives_up_on_is_survived(hub_store: Prestage, hub: Hub) -> None:
    hub.faults.rate_limit, hub.faults.cdn_fails, hub.faults.cuts = 2, 3, 3
    staged = hub_store("stage", REF, "--json")
    assert staged.code == 0, staged.err
    assert staged.last["retries"] >= 4
    assert (Path(staged.last["path"]) / "model.safetensors").read_bytes() == WEIGHTS


def test_a_signed_url_that_expires_in_mid_file_is_looked_up_again(hub_store: Prestage, hub: Hub) -> None:
    hub.faults.cdn_ttl_s = 1
    staged = hub_store("stage", REF, "--connections", "1", "--rate", "12M", "--json")
    assert staged.code == 0, staged.err
    assert len([seen for seen in hub.log if seen.status == 302]) > 1
    assert (Path(staged.last["path"]) / "model.safetensors").read_bytes() == WEIGHTS


def test_a_gated_repository_says_which_credential_was_used_and_never_its_value(hub_store: Prestage, hub: Hub) -> None:
    settings(hub, gated=True, tokens=["hf_right"])
    anonymous = hub_store("stage", REF)
    assert anonymous.code == 4
    wrong = with_env(hub_store, HF_TOKEN="hf_wrongsecret")("stage", REF)
    assert wrong.code == 4
    assert "HF_TOKEN" in wrong.err
    assert "hf_wrongsecret" not in wrong.err + wrong.out
    assert with_env(hub_store, HF_TOKEN="hf_right")("stage", REF).code == 0


@pytest.mark.parametrize("ref", ["hf://org/nothing", "hf://org/model@no-such-branch"])
def test_what_is_not_there_is_a_miss(ref: str, hub_store: Prestage) -> None:
    missing = hub_store("stage", ref)
    assert missing.code == 3
    assert len(missing.err.strip().splitlines()) <= 2


def test_patterns_choose_and_are_remembered(hub_store: Prestage) -> None:
    assert hub_store("stage", REF, "--include", "*.json").code == 0
    view = Path(hub_store("path", REF).out.strip())
    assert [path.name for path in view.iterdir()] == ["config.json"]
    assert hub_store("stage", REF).code == 0
    assert hub_store("path", REF, "--include", "*.json").out.strip() == str(view)
    assert hub_store("path", REF).out.strip() != str(view)
    assert hub_store("stage", REF, "--include", "*.nothing").code == 2


@pytest.fixture
def bucket(versitygw: Versitygw) -> str:
    name = f"stage-{uuid.uuid4().hex[:12]}"
    s3 = versitygw.client()
    s3.create_bucket(Bucket=name)
    s3.put_object(Bucket=name, Key="model/config.json", Body=b"{}")
    s3.put_object(Bucket=name, Key="model/weights with space.safetensors", Body=WEIGHTS)
    s3.close()
    return name


def test_a_prefix_is_staged_with_its_checksums(prestage: Prestage, versitygw: Versitygw, bucket: str) -> None:
    staged = with_env(prestage, **versitygw.environment)("stage", f"s3://{bucket}/model/", "--json")
    assert staged.code == 0, staged.err
    view = Path(staged.last["path"])
    assert (view / "weights with space.safetensors").read_bytes() == WEIGHTS
    manifest = json.loads((view.parent / ".prestage" / "current" / "manifest.json").read_bytes())
    assert all(file["checksum"].startswith(("crc64nvme:", "crc32:")) for file in manifest["files"])


def test_bytes_that_rot_at_the_origin_are_found_by_its_checksum(prestage: Prestage, versitygw: Versitygw, bucket: str) -> None:
    stored = versitygw.buckets / bucket / "model" / "weights with space.safetensors"
    with stored.open("r+b") as file:
        file.seek(1000)
        file.write(bytes(8))
    corrupt = with_env(prestage, **versitygw.environment)("stage", f"s3://{bucket}/model/", "--json")
    assert corrupt.code == 5
    assert corrupt.err.count("crc32:") == 2


@pytest.mark.parametrize(
    ("ref", "environ", "code", "says"),
    [
        ("s3://{}/model/", {"AWS_SECRET_ACCESS_KEY": "wrongsecret"}, 4, "AWS_ACCESS_KEY_ID"),
        ("s3://no-such-bucket-here/model/", {}, 3, "no-such-bucket-here"),
        ("s3://{}/nothing/", {}, 3, "nothing"),
        ("s3://{}/nothing.bin", {}, 3, "nothing.bin"),
    ],
    ids=["wrong secret", "no bucket", "empty prefix", "no key"],
)
def test_s3_refusals_have_the_code_of_their_class(
    ref: str, environ: dict[str, str], code: int, says: str, prestage: Prestage, versitygw: Versitygw, bucket: str
) -> None:
    refused = with_env(prestage, **{**versitygw.environment, **environ})("stage", ref.format(bucket))
    assert refused.code == code, refused.err
    assert says in refused.err
    assert "wrongsecret" not in refused.err


def test_a_bad_network_is_survived(prestage: Prestage, versitygw: Versitygw, bucket: str, toxiproxy: Toxiproxy) -> None:
    route = toxiproxy.route(versitygw.port)
    route.add("limit_data", bytes=3_000_000)
    route.add("latency", latency=20, jitter=20)
    environ = {**versitygw.environment, "AWS_ENDPOINT_URL": route.url().rstrip("/")}
    staged = with_env(prestage, **environ)("stage", f"s3://{bucket}/model/", "--json")
    assert staged.code == 0, staged.err
    assert staged.last["retries"] > 5
    assert (Path(staged.last["path"]) / "weights with space.safetensors").read_bytes() == WEIGHTS
