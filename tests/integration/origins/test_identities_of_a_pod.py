"""boto's whole chain as a pod or an instance finds it, by the real chain: issuer, STS, session keys, role policies, S3.

What runs inside the pod's network is the command line itself, or a script that uses the origins as the agent does.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from servers.fixtures import require
from servers.pod import BUCKET, OTHER, Pod

pytestmark = pytest.mark.needs("root", "mount", "versitygw", "ip", "nsenter", "unshare")
PRESTAGE = [sys.executable, "-m", "prestage.cacher.cli"]
WEIGHTS = random.Random(11).randbytes(40 << 20)
FOUND = {
    "web_identity": "a web identity",
    "pod_identity": "the container (pod identity",
    "instance": "the instance's role",
}


@pytest.fixture(scope="module")
def pod(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pod]:
    require("root", "mount", "versitygw", "ip", "nsenter", "unshare")
    with Pod(tmp_path_factory.mktemp("pod")) as running:
        yield running


@pytest.fixture(scope="module")
def model(pod: Pod) -> str:
    """A ref with two files, in a bucket with versions."""
    (pod.folder / "weights").write_bytes(WEIGHTS)
    script = f"""
import boto3
s3 = boto3.client("s3")
with open({str(pod.folder / "weights")!r}, "rb") as weights:
    s3.put_object(Bucket="{BUCKET}", Key="m/model.safetensors", Body=weights)
s3.put_object(Bucket="{BUCKET}", Key="m/config.json", Body=b"{{}}")
s3.put_object(Bucket="{BUCKET}", Key="m2/secret", Body=b"not yours")
s3.put_object(Bucket="{OTHER}", Key="m/config.json", Body=b"{{}}")
"""
    done = pod.run([sys.executable, "-c", script], pod.owner)
    assert done.returncode == 0, done.stderr
    return f"s3://{BUCKET}/m/"


def inside(pod: Pod, script: str, environ: dict[str, str]) -> dict[str, object]:
    """The JSON that the last line of the script's output is."""
    done = pod.run([sys.executable, "-c", script], environ)
    assert done.returncode == 0, done.stderr
    answer: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return answer


@pytest.mark.parametrize("identity", FOUND)
def test_a_stage_finds_its_identity_as_boto_does(identity: str, pod: Pod, model: str, tmp_path: Path) -> None:
    environ = getattr(pod, identity)
    done = pod.run([*PRESTAGE, "stage", "--root", str(tmp_path / "store"), "--json", model], environ)
    assert done.returncode == 0, done.stderr
    path = Path(json.loads(done.stdout.splitlines()[-1])["path"])
    assert (path / "model.safetensors").read_bytes() == WEIGHTS
    denied = pod.run([*PRESTAGE, "stage", "--root", str(tmp_path / "store"), f"s3://{OTHER}/m/"], environ)
    assert denied.returncode == 4
    assert FOUND[identity] in denied.stderr
    assert "PRESTAGE_S3_REQUESTER_PAYS=1" in denied.stderr
    asked = pod.asked()
    if identity == "pod_identity":
        assert "GET /v1/credentials" in asked
    if identity == "instance":
        assert "PUT /latest/api/token" in asked
        assert "GET /latest/meta-data/iam/security-credentials/node-role" in asked


def test_a_profile_that_assumes_a_role_by_its_own_token(pod: Pod, model: str, tmp_path: Path) -> None:
    (tmp_path / "config").write_text(
        f"[profile lab]\nrole_arn = {pod.role}\nweb_identity_token_file = {pod.folder / 'token'}\nregion = us-east-1\n"
    )
    environ = {**pod.instance, "AWS_CONFIG_FILE": str(tmp_path / "config"), "AWS_PROFILE": "lab"}
    done = pod.run([*PRESTAGE, "stage", "--root", str(tmp_path / "store"), model], environ)
    assert done.returncode == 0, done.stderr


def test_a_profile_whose_process_gives_session_keys(pod: Pod, model: str, tmp_path: Path) -> None:
    (tmp_path / "give").write_text(
        f"#!{sys.executable}\nimport json, os, boto3, botocore\nfrom botocore.config import Config\n"
        f"asked = dict(RoleArn={pod.role!r}, RoleSessionName='process', WebIdentityToken=open(os.environ['TOKEN']).read())\n"
        "os.environ.pop('AWS_PROFILE')\n"
        "sts = boto3.client('sts', config=Config(signature_version=botocore.UNSIGNED))\n"
        "keys = sts.assume_role_with_web_identity(**asked)['Credentials']\n"
        "keys['Expiration'] = keys['Expiration'].isoformat()\n"
        "print(json.dumps({'Version': 1, **keys}))\n"
    )
    (tmp_path / "give").chmod(0o755)
    (tmp_path / "config").write_text(f"[profile lab]\ncredential_process = {tmp_path / 'give'}\n")
    environ = {
        **pod.instance,
        "AWS_CONFIG_FILE": str(tmp_path / "config"),
        "AWS_PROFILE": "lab",
        "TOKEN": str(pod.folder / "token"),
    }
    done = pod.run([*PRESTAGE, "stage", "--root", str(tmp_path / "store"), model], environ)
    assert done.returncode == 0, done.stderr


def test_a_token_of_another_account_is_denied_without_showing_it(pod: Pod, model: str, tmp_path: Path) -> None:
    token = (pod.folder / "token").read_text()
    head, claims, _ = token.split(".")
    (tmp_path / "token").write_text(f"{head}.{claims}.{'A' * 342}")
    environ = {**pod.web_identity, "AWS_WEB_IDENTITY_TOKEN_FILE": str(tmp_path / "token")}
    done = pod.run([*PRESTAGE, "stage", "--root", str(tmp_path / "store"), model], environ)
    assert done.returncode == 4, done.stderr
    assert "AWS STS refused" in done.stderr
    assert claims not in done.stderr


SLOWLY = """
import json, sys, threading
from pathlib import Path
from prestage.cacher.net.client import HttpClient
from prestage.cacher.origins import open_origin
from prestage.cacher.refs import parse_ref
from prestage.cacher.staging import Stager, Watcher, Wish
from prestage.cacher.store.store import Store
from prestage.cacher.transfer.engine import Engine
from prestage.cacher.transfer.limits import Limits
from prestage.cacher.transfer.rate import RateLimit
import os
sent, opened = [], HttpClient.open
def noted(self, request, leaving=None):
    body = opened(self, request, leaving)
    sent.append((request.headers.get("X-Amz-Security-Token", "")[-12:], body.head.status))
    return body
HttpClient.open = noted
client, ref = HttpClient(), parse_ref(sys.argv[2])
class Halfway(Watcher):
    told = False
    def progress(self, progress):
        if progress.bytes_done >= 4 << 20 and not self.told:
            self.told = True
            engine.rate.set_rate(1.0)
            print("halfway", flush=True)
            sys.stdin.readline()
            engine.rate.set_rate(None)
limits = Limits(connections_start=1, connections_max=1)
with Store.open(Path(sys.argv[1]), own=True) as store, Engine(limits, RateLimit(8e6)) as engine:
    staged = Stager(store, engine, client).stage(Wish(ref), open_origin(ref, client=client, environ=os.environ), Halfway())
    view = staged.path / "model.safetensors"
    tokens = list(dict.fromkeys(token for token, _ in sent))
    refused = [status for _, status in sent if status >= 400]
    print(json.dumps(dict(path=str(view), bytes=staged.bytes_by_source, retries=staged.retries, tokens=tokens, refused=refused)))
client.close()
"""


@pytest.mark.parametrize("identity", FOUND)
def test_a_session_that_ends_in_mid_transfer_is_renewed_and_no_piece_is_lost(
    identity: str, pod: Pod, model: str, tmp_path: Path
) -> None:
    with pod.start([sys.executable, "-c", SLOWLY, str(tmp_path / "store"), model], getattr(pod, identity)) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "halfway\n"
        assert pod.expire_sessions() >= 1
        process.stdin.write("go on\n")
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    told = json.loads(out.splitlines()[-1])
    assert Path(told["path"]).read_bytes() == WEIGHTS
    assert 403 in told["refused"], "the server itself refused the session that had ended"
    assert len(told["tokens"]) >= 2, "and another one went on"
    assert told["bytes"] == {"origin": len(WEIGHTS) + 2}, "every byte came once"


MINT = """
import json, sys
import botocore.session
from prestage.cacher.net.client import HttpClient
from prestage.cacher.origins import open_origin
from prestage.cacher.origins.minting import Role, mint, sts_client
from prestage.cacher.origins.ports import Selection
from prestage.cacher.refs import parse_ref
import os
import boto3
import botocore.exceptions
client = HttpClient()
manifest = open_origin(parse_ref(sys.argv[1]), client=client, environ=os.environ).resolve(Selection())
client.close()
role = Role(os.environ["AWS_ROLE_ARN"], life_s=900, web_identity=open(os.environ["AWS_WEB_IDENTITY_TOKEN_FILE"]).read())
sts = sts_client()
minted = mint(manifest, role, sts, session_name="team/serve")
sts.close()
s3 = boto3.client("s3", aws_access_key_id=minted.access_key, aws_secret_access_key=minted.secret_key,
                  aws_session_token=minted.session_token)
def tried(key, bucket="models", **settings):
    try:
        return len(s3.get_object(Bucket=bucket, Key=key, **settings)["Body"].read())
    except botocore.exceptions.ClientError as exc:
        return exc.response["Error"]["Code"]
versions = {file.path: file.version for file in manifest.files}
old = json.loads(sys.argv[2])
answer = dict(
    pinned=tried("m/config.json", VersionId=versions["config.json"]),
    weights=tried("m/model.safetensors", VersionId=versions["model.safetensors"]),
    unnamed=tried("m/config.json"),
    old=tried("m/config.json", VersionId=old),
    other=tried("m2/secret"),
    policy=minted.policy.document, packed=minted.packed_percent, pins=minted.policy.pins_versions, shown=repr(minted))
try:
    s3.list_objects_v2(Bucket="models")
    answer["list"] = "allowed"
except botocore.exceptions.ClientError as exc:
    answer["list"] = exc.response["Error"]["Code"]
print(json.dumps(answer))
"""


def test_what_is_minted_reads_the_manifests_objects_at_their_versions_and_nothing_else(pod: Pod, model: str) -> None:
    replace = f"""
import boto3, json
s3 = boto3.client("s3")
old = s3.head_object(Bucket="{BUCKET}", Key="m/config.json")["VersionId"]
s3.put_object(Bucket="{BUCKET}", Key="m/config.json", Body=b"{{}}")
print(json.dumps(dict(old=old)))
"""
    old = inside(pod, replace, pod.owner)["old"]
    done = pod.run([sys.executable, "-c", MINT, model, json.dumps(old)], pod.web_identity)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert (told["pinned"], told["weights"]) == (2, len(WEIGHTS))
    assert (told["unnamed"], told["old"], told["other"], told["list"]) == ("AccessDenied",) * 4
    assert told["pins"]
    assert len(told["policy"]) < 2048
    assert "SessionToken" not in told["shown"]
    assert "hidden" not in told["shown"]


def test_minted_keys_stage_the_manifest_they_were_minted_for(pod: Pod, model: str, tmp_path: Path) -> None:
    """What a broker would hand to a node: GETs of pinned versions only, hence a transfer without a resolve."""
    script = """
import json, os, sys
from pathlib import Path
from prestage.cacher.net.client import HttpClient
from prestage.cacher.origins import open_origin
from prestage.cacher.origins.minting import Role, mint, sts_client
from prestage.cacher.origins.ports import Selection
from prestage.cacher.origins.source import OriginSource
from prestage.cacher.refs import parse_ref
client, ref = HttpClient(), parse_ref(sys.argv[1])
manifest = open_origin(ref, client=client, environ=os.environ).resolve(Selection())
role = Role(os.environ.pop("AWS_ROLE_ARN"), web_identity=open(os.environ.pop("AWS_WEB_IDENTITY_TOKEN_FILE")).read())
sts = sts_client()
minted = mint(manifest, role, sts, session_name="node")
sts.close()
os.environ.update(AWS_ACCESS_KEY_ID=minted.access_key, AWS_SECRET_ACCESS_KEY=minted.secret_key)
os.environ.update(AWS_SESSION_TOKEN=minted.session_token)
origin, read = open_origin(ref, client=client, environ=os.environ), {}
for file in manifest.files:
    stream, buffer = OriginSource(origin, client, manifest, file, "lane").open(0, file.size_bytes), bytearray(file.size_bytes)
    assert stream.readinto(memoryview(buffer)) == file.size_bytes
    stream.close()
    read[file.path] = len(buffer)
client.close()
print(json.dumps(read))
"""
    done = pod.run([sys.executable, "-c", script, model], pod.web_identity)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {"config.json": 2, "model.safetensors": len(WEIGHTS)}


def test_botos_metadata_calls_are_not_the_refs_and_go_on_under_a_tenants_policy(pod: Pod, model: str) -> None:
    script = """
import json, os, sys
from prestage.cacher.errors import Denied
from prestage.cacher.net.client import HttpClient
from prestage.cacher.net.policy import AddressPolicy
from prestage.cacher.origins import open_origin
from prestage.cacher.origins.ports import Selection
from prestage.cacher.refs import parse_ref
said = dict()
for name, allow in dict(store=["127.0.0.1"], nothing=[]).items():
    client = HttpClient(policy=AddressPolicy.tenant(allow=allow))
    try:
        said[name] = len(open_origin(parse_ref(sys.argv[1]), client=client, environ=os.environ).resolve(Selection()).files)
    except Denied as exc:
        said[name] = exc.message
    client.close()
client = HttpClient(policy=AddressPolicy.tenant())
try:
    open_origin(parse_ref("http://169.254.169.254/latest/meta-data/iam"), client=client, environ={}).resolve(Selection())
except Denied as exc:
    said["metadata"] = exc.message
print(json.dumps(said))
"""
    done = pod.run([sys.executable, "-c", script, model], pod.instance)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["store"] == 2
    assert "'127.0.0.1' is at a loopback address" in told["nothing"]
    assert "'169.254.169.254' is at a link-local address" in told["metadata"]
