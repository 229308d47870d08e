"""List and watch against a real API server that is killed, frozen, cut off and compacted: nothing lost, nothing told twice."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest

from cluster.apiserver import ApiServer
from cluster.replay import Replay
from prestage.kube.answers import Backoff
from prestage.kube.client import KubeApi
from prestage.kube.contract import config_map
from prestage.kube.errors import Forbidden, Missing, NoCluster, Unreachable
from prestage.kube.events import Recorder, Said, Subject
from prestage.kube.following import Follower, Pace
from prestage.kube.leases import Election, Terms
from prestage.kube.mirror import Synced
from prestage.kube.ports import EVERYTHING, Page, Resource, Selection, name_of, version_of
from prestage.kube.resources import CONFIG_MAPS, EVENTS, LEASES, PODS, SERVICE_ACCOUNTS
from prestage.kube.settings import KubeSettings
from servers.toxiproxy import Toxiproxy

pytestmark = pytest.mark.needs("kubernetes")
QUICK = Pace(Backoff(0.02, 0.5), (20.0, 30.0))


def run(test: Awaitable[None], timeout_s: float = 150.0) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(timeout_s):
            await test

    asyncio.run(bounded())


async def until(holds: Callable[[], bool]) -> None:
    while not holds():
        await asyncio.sleep(0.01)


def connect(server: ApiServer, url: str | None = None, *, idle_s: float = 150.0, deadline_s: float = 60.0) -> Awaitable[KubeApi]:
    settings = KubeSettings(kubeconfig=server.kubeconfig, server=url, idle_s=idle_s, deadline_s=deadline_s, connect_s=2.0)
    return KubeApi.connect(settings)


@asynccontextmanager
async def following(api: KubeApi, namespace: str) -> AsyncIterator[tuple[Follower, Replay]]:
    follower, replay = Follower(api, CONFIG_MAPS, Selection(namespace), pace=QUICK), Replay()

    async def follow() -> None:
        async with aclosing(follower.changes()) as changes:
            async for change in changes:
                replay.take(change)

    task = asyncio.create_task(follow())
    try:
        yield follower, replay
    finally:
        task.cancel()
        [ended] = await asyncio.gather(task, return_exceptions=True)
        assert isinstance(ended, asyncio.CancelledError), ended


async def truth(api: KubeApi, namespace: str) -> dict[str, str]:
    return {name_of(one): version_of(one) for one in (await api.page(CONFIG_MAPS, Selection(namespace))).items}


async def work(api: KubeApi, namespace: str, *, steps: int, seed: int) -> None:
    """Creates, patches and deletes some objects."""
    chance = random.Random(seed)
    there = set[str]()
    for step in range(steps):
        name = f"a{chance.randrange(8)}"
        if name not in there:
            await api.apply(CONFIG_MAPS, config_map(namespace, name, {"step": str(step)}), manager="test", force=True)
            there.add(name)
        elif chance.random() < 0.3:
            await api.delete(CONFIG_MAPS, name, namespace=namespace)
            there.discard(name)
        else:
            await api.patch(CONFIG_MAPS, name, {"data": {"step": str(step)}}, namespace=namespace)


def test_an_api_server_killed_in_the_middle_loses_nothing(api_server: ApiServer, namespace: str) -> None:
    async def test() -> None:
        async with await connect(api_server) as api, following(api, namespace) as (_, replay):
            await until(lambda: Synced() in replay.told)
            await work(api, namespace, steps=20, seed=1)
            api_server.down()
            try:
                writing = asyncio.create_task(api.apply(CONFIG_MAPS, config_map(namespace, "during", {}), manager="test"))
                await asyncio.sleep(0.5)
                assert not writing.done(), "an apply waits for the API server within its deadline"
            finally:
                await asyncio.to_thread(api_server.up)
            await writing
            await work(api, namespace, steps=20, seed=2)
            expected = await truth(api, namespace)
            await until(lambda: replay.versions == expected)

    run(test())


@pytest.mark.needs("toxiproxy-server")
def test_what_a_restart_made_the_api_server_forget_is_listed_again(
    api_server: ApiServer, namespace: str, toxiproxy: Toxiproxy
) -> None:
    route = toxiproxy.route(api_server.port)

    async def test() -> None:
        async with (
            await connect(api_server) as writer,
            await connect(api_server, f"https://127.0.0.1:{route.port}") as reader,
            following(reader, namespace) as (follower, replay),
        ):
            await work(writer, namespace, steps=10, seed=3)
            expected = await truth(writer, namespace)
            await until(lambda: replay.versions == expected)
            await asyncio.to_thread(route.enabled, False)
            await asyncio.to_thread(_restart_and_write_unseen, api_server, namespace)
            await asyncio.to_thread(route.enabled, True)
            await work(writer, namespace, steps=10, seed=4)
            expected = await truth(writer, namespace)
            await until(lambda: replay.versions == expected)
            assert follower.lists == 2, "410 Gone, once"

    run(test())


def _restart_and_write_unseen(api_server: ApiServer, namespace: str) -> None:
    api_server.down()
    api_server.up()
    for number in range(5):
        body = {"metadata": {"name": f"unseen{number}"}, "data": {}}
        api_server.ask(f"/api/v1/namespaces/{namespace}/configmaps", method="POST", body=body)
    api_server.compact()
    api_server.down()
    api_server.up()


@pytest.mark.needs("toxiproxy-server")
def test_connections_cut_again_and_again_lose_nothing(api_server: ApiServer, namespace: str, toxiproxy: Toxiproxy) -> None:
    route = toxiproxy.route(api_server.port)

    async def test() -> None:
        url = f"https://127.0.0.1:{route.port}"
        async with (
            await connect(api_server) as writer,
            await connect(api_server, url) as reader,
            following(reader, namespace) as (follower, replay),
        ):
            await until(lambda: Synced() in replay.told)
            for round_ in range(6):
                toxic = await asyncio.to_thread(route.add, "limit_data", bytes=2000 + 700 * round_)
                await work(writer, namespace, steps=12, seed=10 + round_)
                await asyncio.to_thread(route.remove, toxic)
                await asyncio.to_thread(route.enabled, False)
                await work(writer, namespace, steps=3, seed=20 + round_)
                await asyncio.to_thread(route.enabled, True)
            expected = await truth(writer, namespace)
            await until(lambda: replay.versions == expected)
            assert follower.lists == 1, "a cut connection is no reason to list again"

    run(test())


@pytest.mark.needs("toxiproxy-server")
def test_a_watch_on_which_nothing_comes_is_taken_for_dead(api_server: ApiServer, namespace: str, toxiproxy: Toxiproxy) -> None:
    route = toxiproxy.route(api_server.port)

    async def test() -> None:
        url = f"https://127.0.0.1:{route.port}"
        async with (
            await connect(api_server) as writer,
            await connect(api_server, url, idle_s=1.0, deadline_s=5.0) as reader,
            following(reader, namespace) as (follower, replay),
        ):
            await until(lambda: Synced() in replay.told)
            toxic = await asyncio.to_thread(route.add, "timeout", timeout=0)  # swallows everything, ends nothing
            await work(writer, namespace, steps=10, seed=5)
            await until(lambda: follower.fruitless > 0)
            await asyncio.to_thread(route.remove, toxic)
            expected = await truth(writer, namespace)
            await until(lambda: replay.versions == expected)

    run(test())


def test_a_frozen_api_server_ends_a_request_at_its_deadline(api_server: ApiServer, namespace: str) -> None:
    async def test() -> None:
        async with await connect(api_server, deadline_s=1.5) as api:
            await api.page(CONFIG_MAPS, Selection(namespace))
            api_server.freeze()
            try:
                with pytest.raises(Unreachable, match="no answer in time"):
                    await api.page(CONFIG_MAPS, Selection(namespace))
            finally:
                api_server.thaw()

    run(test())


def test_a_compaction_between_pages_begins_the_list_again(api_server: ApiServer, namespace: str) -> None:
    """etcd forgets while a client reads: the token is refused, and the copy is whole all the same."""

    class Compacting(KubeApi):
        compactions = 0

        async def page(
            self, resource: Resource, selection: Selection = EVERYTHING, *, limit: int | None = None, rest: str | None = None
        ) -> Page:
            if rest is not None and self.compactions < 2:
                self.compactions += 1
                await super().apply(CONFIG_MAPS, config_map(namespace, f"late{self.compactions}", {}), manager="test")
                await asyncio.to_thread(api_server.compact)
            return await super().page(resource, selection, limit=limit, rest=rest)

    async def test() -> None:
        async with await connect(api_server) as writer:
            await fill(writer, namespace, 600)
            api = await Compacting.connect(KubeSettings(kubeconfig=api_server.kubeconfig))
            async with api, following(api, namespace) as (_, replay):
                await until(lambda: Synced() in replay.told)
                expected = await truth(writer, namespace)
                await until(lambda: replay.versions == expected)
            assert len(expected) >= 600

    run(test())


async def fill(api: KubeApi, namespace: str, count: int) -> None:
    """`count` objects, 32 at a time."""
    numbers = iter(range(count))

    async def some() -> None:
        for number in numbers:
            await api.create(CONFIG_MAPS, config_map(namespace, f"many{number:05d}", {}))

    async with asyncio.TaskGroup() as group:
        for _ in range(32):
            group.create_task(some())


@pytest.mark.slow
def test_ten_thousand_objects_through_a_restart(api_server: ApiServer, namespace: str) -> None:
    async def test() -> None:
        async with await connect(api_server) as api:
            await fill(api, namespace, 10_000)
            async with following(api, namespace) as (follower, replay):
                await until(lambda: len(replay.known) == 10_000)
                await asyncio.to_thread(_restart_and_write_unseen, api_server, namespace)
                await api.delete(CONFIG_MAPS, "many00000", namespace=namespace)
                await until(lambda: len(replay.known) == 10_004)
                pages = await asyncio.gather(
                    *(api.get(CONFIG_MAPS, name, namespace=namespace) for name in list(replay.known)[:50])
                )
                assert [version_of(one) for one in pages] == list(replay.versions.values())[:50]
                assert len(follower.mirror) == 10_004

    run(test(), 500)


def test_two_candidates_never_lead_at_once_through_a_restart(api_server: ApiServer, namespace: str) -> None:
    leading: set[str] = set()
    ever: list[str] = []

    def lead(me: str) -> Callable[[], Awaitable[None]]:
        async def work() -> None:
            assert not leading, "two lead"
            leading.add(me)
            ever.append(me)
            try:
                await asyncio.Event().wait()
            finally:
                leading.discard(me)

        return work

    async def candidate(api: KubeApi, me: str) -> None:
        while True:
            terms = Terms(lease_s=8.0, renew_s=2.0, retry_s=0.1)
            await Election(api, name="planner", namespace=namespace, me=me, terms=terms).run(lead(me))

    async def test() -> None:
        async with await connect(api_server) as one, await connect(api_server) as two:
            tasks = [asyncio.create_task(candidate(one, "one")), asyncio.create_task(candidate(two, "two"))]
            await until(lambda: bool(leading))
            api_server.down()
            try:
                await until(lambda: not leading)
            finally:
                await asyncio.to_thread(api_server.up)
            await until(lambda: len(ever) == 2)
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
            assert [type(one) for one in ended] == [asyncio.CancelledError] * 2
            held = await two.get(LEASES, "planner", namespace=namespace)
            spec = held["spec"]
            assert isinstance(spec, dict)
            assert not spec.get("holderIdentity"), "let go of at the end"

    run(test())


def test_events_are_taken_and_shown_by_kubectl(api_server: ApiServer, namespace: str) -> None:
    async def test() -> None:
        async with await connect(api_server) as api:
            about = await api.create(CONFIG_MAPS, config_map(namespace, "a"))
            recorder = Recorder(api, controller="prestage.dev/planner", instance="planner-0")
            sending = asyncio.create_task(recorder.run())
            recorder.say(Said(Subject.of(CONFIG_MAPS, about), "Staging", "Staging 41 %, 12 s left, from origin", "Stage"))
            recorder.say(
                Said(
                    Subject.of(PODS, {"metadata": {"name": "p", "namespace": namespace, "uid": "u"}}),
                    "Warm",
                    "Warm on 3 nodes",
                    "Report",
                )
            )
            await recorder.drained()
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            assert recorder.dropped == 0
            [event] = (await api.page(EVENTS, Selection(namespace, fields="regarding.kind=Pod"))).items
            repeated = {"series": {"count": 2, "lastObservedTime": "2026-01-01T00:00:00.000000Z"}}
            await api.patch(EVENTS, name_of(event), repeated, namespace=namespace)

    run(test())
    shown = api_server.kubectl("events", "-n", namespace, "--for", "configmap/a")
    assert "Staging 41 %, 12 s left, from origin" in shown


def test_a_service_account_is_let_in_as_itself_and_no_further(api_server: ApiServer, namespace: str) -> None:
    async def test() -> None:
        async with await connect(api_server) as admin:
            token = await service_account_token(admin, namespace)
        path = api_server.folder / f"{namespace}.conf"
        api_server.authority.token_kubeconfig(path, api_server.url, token)
        async with await KubeApi.connect(KubeSettings(kubeconfig=path)) as agent:
            with pytest.raises(Forbidden, match=f'User "system:serviceaccount:{namespace}:agent" cannot list'):
                await agent.page(CONFIG_MAPS, Selection(namespace))
        async with await connect(api_server) as admin:
            with pytest.raises(Missing):
                await admin.page(Resource("nonsense.example/v1", "things", "Thing", namespaced=False))

    run(test())


def test_in_a_pod_the_service_account_is_who_we_are(
    api_server: ApiServer, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files that the kubelet mounts, and the variables that it sets."""
    from kubernetes.aio.config import incluster_config  # 2 s: not at collection

    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", api_server.host)
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(api_server.port))
    token = tmp_path / "token"
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(token))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(api_server.authority.ca))

    async def test() -> None:
        with pytest.raises(NoCluster):
            await KubeApi.connect(KubeSettings())
        async with await connect(api_server) as admin:
            token.write_text(await service_account_token(admin, namespace))
        async with await KubeApi.connect(KubeSettings()) as agent:
            with pytest.raises(Forbidden, match=f"system:serviceaccount:{namespace}:agent"):
                await agent.page(CONFIG_MAPS, Selection(namespace))

    run(test())


async def service_account_token(admin: KubeApi, namespace: str) -> str:
    """Of a new service account `agent`."""
    await admin.create(SERVICE_ACCOUNTS, {"metadata": {"name": "agent", "namespace": namespace}})
    wanted = {"spec": {"audiences": ["https://kubernetes.default.svc"], "expirationSeconds": 600}}
    given = await admin.create(SERVICE_ACCOUNTS, wanted, namespace=namespace, name="agent", subresource="token")
    status = given["status"]
    assert isinstance(status, dict)
    return str(status["token"])


def test_a_kubeconfig_that_is_none_says_what_to_do(api_server: ApiServer) -> None:
    async def test() -> None:
        path = api_server.folder / "broken.conf"
        for text in ("", "{", "apiVersion: v1\nkind: Config\ncurrent-context: none\n"):
            path.write_text(text)
            with pytest.raises(NoCluster, match="set KUBECONFIG, or say --kubeconfig FILE"):
                await KubeApi.connect(KubeSettings(kubeconfig=path))
        with pytest.raises(NoCluster, match=r"there is no kubeconfig '.*missing.conf'"):
            await KubeApi.connect(KubeSettings(kubeconfig=path.with_name("missing.conf")))

    run(test())
