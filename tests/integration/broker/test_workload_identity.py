"""A StagedModel's roleARN by the real chain: a service account's token, STS, session policies, presigned URLs of its session."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from servers.fixtures import require
from servers.pod import BUCKET, OTHER, Pod

NEEDS = ("root", "mount", "versitygw", "ip", "nsenter", "unshare")
pytestmark = pytest.mark.needs(*NEEDS)

SCRIPT = """
import json, os, sys, threading
from prestage.api.policies import Origin
from prestage.api.reading import read
from prestage.cacher.errors import PrestageError
from prestage.cacher.net.client import HttpClient
from prestage.cacher.net.ports import HttpRequest
from prestage.cacher.origins.ports import Selection
from prestage.cacher.refs import parse_ref
from prestage.control.broker.credentials import RoleToken
from prestage.control.broker.fetches import Entry, fetches_of
from prestage.control.broker.opening import Network, Place, open_to_fetch, open_to_resolve

bucket, other = sys.argv[1:3]
keys = RoleToken(os.environ.pop("AWS_ROLE_ARN"), open(os.environ.pop("AWS_WEB_IDENTITY_TOKEN_FILE")).read(), "the role")
spec = dict(type="S3", endpoint=os.environ.pop("AWS_ENDPOINT_URL_S3"), region="us-east-1", allowedCIDRs=["127.0.0.0/8"])
place = Place(read(Origin, dict(kind="Origin", metadata=dict(name="o"), spec=spec)))
cancel = threading.Event()

def resolved(text):
    ref = parse_ref(text)
    opened = open_to_resolve(ref, place, keys, Network(), cancel)
    try:
        return ref, opened, opened.origin.resolve(Selection())
    finally:
        opened.close()

def refused(work):
    try:
        work()
        return "allowed"
    except PrestageError as exc:
        return type(exc).__name__

ref, listing, manifest = resolved(f"s3://{bucket}/m/")
session = listing.keys
opened = open_to_fetch(ref, place, keys, Network(), cancel, manifest)
fetches = fetches_of(Entry(opened, 0, cancel), manifest, manifest.files)
plain = HttpClient()
read_back = {}
for one in fetches:
    reply = plain.fetch(HttpRequest(one.url, {**one.headers, "Range": "bytes=0-9"}), redirects=0)
    read_back[one.path] = [reply.head.status, len(reply.body)]
moved = plain.fetch(HttpRequest(fetches[0].url.replace("/m/", "/m2/"), {"Range": "bytes=0-9"})).head.status

def reads(keys, key):
    from prestage.control.broker.opening import _opened
    other_ref = parse_ref(f"s3://{bucket}/{key}")
    made = _opened(other_ref, place, keys, Network(), cancel)
    try:
        return refused(lambda: made.origin.resolve(Selection()))
    finally:
        made.close()

said = dict(
    files=len(manifest.files), read=read_back, moved=moved,
    expires=[opened.expires_at is not None, all(one.expires_at is not None for one in fetches)],
    secret=opened.keys.secret_key in json.dumps([one.url for one in fetches]),
    listing_reads=[reads(session, "m/config.json"), reads(session, "m2/secret"), reads(session, "m2/")],
    fetch_reads=[reads(opened.keys, "m2/secret"), reads(opened.keys, "m/")],
    foreign=refused(lambda: resolved(f"s3://{other}/m/")),
    forged=refused(lambda: open_to_resolve(ref, place, RoleToken(keys.role, "eyJ0.x.y"), Network(), cancel)),
)
opened.close()
plain.close()
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def pod(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pod]:
    require(*NEEDS)
    with Pod(tmp_path_factory.mktemp("pod")) as running:
        yield running


def inside(pod: Pod, script: str, environ: dict[str, str], *words: str) -> dict[str, object]:
    done = pod.run([sys.executable, "-c", script, *words], environ)
    assert done.returncode == 0, done.stderr
    answer: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return answer


def test_a_role_resolves_its_prefix_and_hands_out_its_objects_and_nothing_else(pod: Pod, tmp_path: Path) -> None:
    script = f"""
import boto3, json
s3 = boto3.client("s3")
s3.put_object(Bucket="{BUCKET}", Key="m/model.safetensors", Body=b"w" * 1000)
s3.put_object(Bucket="{BUCKET}", Key="m/config.json", Body=b"{{}}")
s3.put_object(Bucket="{BUCKET}", Key="m2/secret", Body=b"not yours")
s3.put_object(Bucket="{OTHER}", Key="m/config.json", Body=b"{{}}")
print(json.dumps(dict(done=True)))
"""
    inside(pod, script, pod.owner)
    told = inside(pod, SCRIPT, pod.web_identity, BUCKET, OTHER)
    assert told["files"] == 2
    assert told["read"] == {"config.json": [206, 2], "model.safetensors": [206, 10]}
    assert told["moved"] == 403
    assert told["expires"] == [True, True]
    assert told["secret"] is False
    assert told["listing_reads"] == ["allowed", "Denied", "Denied"]
    assert told["fetch_reads"] == ["Denied", "Denied"]
    assert (told["foreign"], told["forged"]) == ("Denied", "Denied")
