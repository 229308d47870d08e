"""An origin that takes a right back, gives it again, or is away: what is mounted anew meanwhile. Days are seconds here."""

from __future__ import annotations

import asyncio
import datetime
import logging
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from brokers import Broker, Cluster, PodMade, play, wish
from layers.rig import Rig, locked, made
from offers import MODEL, make_bucket, put_object, repository

from prestage.api.artifacts import AccessState, SourceAccess
from prestage.api.brokerage import FetchesRequest, MountsRequest, Resolved, WantedMount
from prestage.cacher.errors import Denied
from prestage.cacher.net.client import HttpClient
from prestage.control.access import AccessTerms
from prestage.control.broker.records import Records
from prestage.kube.resources import SECRETS
from prestage.wire.broker_client import refusal_of
from servers.hostile import Hostile
from servers.hub import Hub
from servers.versitygw import Versitygw

SECOND = datetime.timedelta(seconds=1)
QUICK = AccessTerms(every=SECOND, confirm=SECOND, unknown=SECOND, revoked=3600 * SECOND, hurried=SECOND)
"""What is revoked is looked at again only where a pod waits for it."""


@pytest.fixture
def cluster() -> Cluster:
    made = Cluster()
    for name in ("team-a", "team-b"):
        made.namespace(name)
    return made


async def until(look: Callable[[], Awaitable[bool]], *, seconds: float = 30.0) -> None:
    async with asyncio.timeout(seconds):
        while not await look():
            await asyncio.sleep(0.1)


async def row_of(cluster: Cluster, found: Resolved, source: str) -> SourceAccess:
    now = await Records(cluster).now(found.namespace, found.artifact)
    assert now is not None
    return next(row for row in now.access if row.source == source)


async def no(broker: Broker, pod: PodMade, wanted: WantedMount) -> str | None:
    """Why it may not be mounted; None: it may."""
    request = MountsRequest(pod=pod.identity, pod_token=pod.token, models=[wanted])
    try:
        await broker.node("n1").mounts(request)
    except Denied as exc:
        refusal = refusal_of(exc)
        assert refusal is not None
        assert refusal.code == "AccessRevoked", refusal
        return str(exc)
    return None


@pytest.mark.needs("versitygw")
def test_keys_that_lost_their_right_mount_nothing_anew_until_they_have_it_again(
    cluster: Cluster, versitygw: Versitygw, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_bucket(versitygw, "withdrawn")
    for path, content in MODEL.items():
        put_object(versitygw, "withdrawn", f"m/{path}", content)
    versitygw.user("AKTEAM", "SKTEAM")
    versitygw.let("withdrawn", "AKTEAM")
    cluster.origin("s3", "S3", endpoint=versitygw.url, pathStyle=True, region="us-east-1")
    cluster.secret("team-a", "s3", AWS_ACCESS_KEY_ID="AKTEAM", AWS_SECRET_ACCESS_KEY="SKTEAM")
    ref = "s3://withdrawn/m/"
    wanted = WantedMount(alias="llama", ref=ref)

    async def test(broker: Broker) -> None:
        pod = await broker.pod("team-a", "n1")
        made = await broker.planner.resolve(wish(ref, uid=pod.template.uid, credentials="s3"))
        await broker.shelved()
        await broker.plan("n1", made.artifact)
        source = f"{ref} by s3"
        first = (await row_of(cluster, made, source)).verified_at

        async def is_verified_again() -> bool:
            at = (await row_of(cluster, made, source)).verified_at
            return at is not None and first is not None and at > first

        await until(is_verified_again)
        assert await no(broker, pod, wanted) is None
        versitygw.let("withdrawn")

        async def is_blocked() -> bool:
            return await no(broker, pod, wanted) is not None

        await until(is_blocked)
        said = await no(broker, pod, wanted) or ""
        assert "the keys of Secret team-a/s3" in said
        row = await row_of(cluster, made, source)
        assert (row.state, row.reason) == (AccessState.REVOKED, "OriginRefused")
        with pytest.raises(Denied, match="refuses every namespace"):
            await broker.node("n1").fetches(FetchesRequest(artifact=made.artifact, paths=["config.json"]))
        versitygw.let("withdrawn", "AKTEAM")

        async def is_open() -> bool:
            return await no(broker, pod, wanted) is None  # a pod that waits hurries it

        await until(is_open)
        fetches = (await broker.node("n1").fetches(FetchesRequest(artifact=made.artifact, paths=["config.json"]))).fetches
        assert fetches[0].url

    with caplog.at_level(logging.INFO, logger="prestage"):
        play(cluster, tmp_path, test, access=QUICK)
    told = [record for record in caplog.records if record.message in ("access-revoked", "access-restored")]
    assert [record.message for record in told] == ["access-revoked", "access-restored"]
    assert "AKTEAM" not in repr([record.__dict__ for record in told])


@pytest.mark.slow
def test_a_hub_that_is_away_revokes_nothing_and_a_token_that_is_taken_back_does_for_grantees_too(
    cluster: Cluster, hub: Hub, tmp_path: Path
) -> None:
    repository(hub, "meta/gated", dict(MODEL), gated=True, tokens=["hf_ok"])
    cluster.origin("huggingface", "HuggingFace", endpoint=hub.endpoint)
    cluster.secret("team-b", "hf", HF_TOKEN="hf_ok")
    credentials = {"type": "Secret", "secretRef": {"name": "hf"}}
    cluster.model("team-b", "support", source="hf://meta/gated", revision="main", credentials=credentials)
    cluster.grant("team-b", "for-a", to="support", namespace="team-a", service_account="server")
    theirs, mine = (WantedMount(alias="support", ref=ref) for ref in ("ref:team-b/support", "ref:support"))

    async def test(broker: Broker) -> None:
        guest, owner = await broker.pod("team-a", "n1"), await broker.pod("team-b", "n1", name="own")
        for pod, one in ((guest, theirs), (owner, mine)):
            asked = wish(
                one.ref, namespace=pod.identity.namespace, uid=pod.template.uid, alias="support", service_account="server"
            )
            made = await broker.planner.resolve(asked)
        await broker.shelved()
        hub.faults.rate_limit, hub.faults.rate_reset_s = 10**6, 600
        source = "ref:support"

        async def has_reason(*reasons: str | None) -> bool:
            return (await row_of(cluster, made, source)).reason in reasons

        await until(lambda: has_reason("OriginUnavailable", "OriginSlow"))
        assert (await row_of(cluster, made, source)).state is AccessState.VERIFIED
        assert await no(broker, guest, theirs) is None
        hub.faults.rate_limit = 0
        await until(lambda: has_reason(None))
        repository(hub, "meta/gated", {}, gated=True, tokens=["hf_other"])

        async def is_blocked() -> bool:
            return await no(broker, guest, theirs) is not None

        await until(is_blocked)
        assert "gated" in (await no(broker, owner, mine) or "")
        assert "gated" not in (await no(broker, guest, theirs) or "")
        assert "ask the people of team-b" in (await no(broker, guest, theirs) or "")

        # the Secret is replaced by one that reads it
        await cluster.delete(SECRETS, "hf", namespace="team-b")
        fresh = {"metadata": {"name": "hf", "namespace": "team-b"}, "data": {"HF_TOKEN": "aGZfb3RoZXI="}}
        await cluster.create(SECRETS, fresh)

        async def is_open() -> bool:
            return await no(broker, guest, theirs) is None

        await until(is_open)

    play(cluster, tmp_path, test, access=QUICK)


def test_a_registry_that_gives_tokens_without_access_has_taken_it_back(cluster: Cluster, tmp_path: Path) -> None:
    with Hostile() as server, closing(HttpClient()) as client:
        rig = Rig(server, client)
        host = server.url("").removeprefix("http://")
        cluster.origin("hostile", "OCI", endpoint=server.url(""))

        async def test(broker: Broker) -> None:
            asked = wish(f"oci://{host}/app:v1", namespace="team-a", alias="image/amd64/0")
            found = await broker.planner.resolve(msgspec.structs.replace(asked, platform="linux/amd64"))
            await broker.shelved()
            source = f"oci://{host}/app:v1@{made().digest}"
            assert (await row_of(cluster, found, source)).state is AccessState.VERIFIED
            rig.server.choose = locked(server)

            async def is_revoked() -> bool:
                row = await row_of(cluster, found, source)
                return (row.state, row.reason) == (AccessState.REVOKED, "OriginRefused")

            await until(is_revoked)

        play(cluster, tmp_path, test, access=QUICK)
