"""Authorities and certificates of broker and webhook go round while questions go on, on a real API server: not one is refused.

Months are seconds: a certificate is backdated by five minutes, so one that lasts half as long soon is over two thirds of that.
Who trusts reads the authorities a second after they were published, as a pod's file of a ConfigMap is later than the ConfigMap.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import datetime
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import cast

import pytest
from cryptography import x509

from cluster.apiserver import ApiServer
from cluster.kinds import install
from prestage.cacher.errors import Denied, PrestageError
from prestage.control.admission.app import AdmissionConfig
from prestage.control.admission.app import run as run_admission
from prestage.control.admission.manifests import GROUP, NAME, Client, mutating_webhook
from prestage.control.broker.app import Address, BrokerConfig, Running
from prestage.control.broker.app import run as run_broker
from prestage.control.broker.identity import Accounts
from prestage.control.certificates import Terms
from prestage.kube.client import KubeApi
from prestage.kube.errors import Missing
from prestage.kube.ports import Object, Resource
from prestage.kube.resources import CONFIG_MAPS, PODS, SECRETS
from prestage.kube.settings import KubeSettings
from prestage.wire.broker_client import BrokerClient, BrokerSettings, refusal_of
from servers.programs import free_port

pytestmark = [pytest.mark.needs("kubernetes"), pytest.mark.slow]
MUTATING = Resource(f"{GROUP}/v1", "mutatingwebhookconfigurations", "MutatingWebhookConfiguration", namespaced=False)
SECOND = datetime.timedelta(seconds=1)
QUICK = Terms(authority=168 * SECOND, certificate=155 * SECOND, settle=6 * SECOND)
LATER_S = 1.0
SIGNERS = 3
"""Authorities that must have signed, one after the other."""
_NO_TIME = "context deadline exceeded", "Client.Timeout"
"""The API server gives the webhook two seconds, which a busy machine may not have: that is no matter of certificates."""


class Place:
    """An API server, with both processes' parts on this loop."""

    def __init__(self, api: KubeApi, namespace: str, folder: Path) -> None:
        self.api, self.namespace, self.folder = api, namespace, folder
        self.answered = Counter[str]()
        self.signers: dict[str, list[str]] = {"prestage-broker": [], "prestage-admission": []}

    async def authorities(self, service: str) -> bytes:
        found = await self.api.get(CONFIG_MAPS, f"{service}-ca", namespace=self.namespace)
        return str(cast("Mapping[str, str]", found["data"])["ca.crt"]).encode()

    async def note_signers(self) -> None:
        for service, seen in self.signers.items():
            secret = await self.api.get(SECRETS, f"{service}-tls", namespace=self.namespace)
            chain = base64.b64decode(cast("Mapping[str, str]", secret["data"])["tls.crt"])
            name = x509.load_pem_x509_certificates(chain)[0].issuer.rfc4514_string()
            if seen[-1:] != [name]:
                seen.append(name)

    async def publish(self) -> None:
        """As the kubelet: late."""
        said = await self.authorities("prestage-broker")
        await asyncio.sleep(LATER_S)
        fresh = self.folder / "ca.new"
        fresh.write_bytes(said)
        fresh.rename(self.folder / "ca.crt")

    async def ask_broker(self, port: int) -> None:
        """A new connection each time. What it answers to a stranger is an answer."""
        settings = BrokerSettings(f"https://127.0.0.1:{port}", self.folder / "token", self.folder / "ca.crt", 10.0)
        async with BrokerClient(settings) as client:
            with pytest.raises(Denied) as found:
                await client.manifest("sha256:" + "0" * 64)
        refusal = refusal_of(found.value)
        assert refusal is not None
        assert refusal.code == "NotAuthenticated"
        self.answered["broker"] += 1

    async def create_pod(self) -> None:
        """The API server asks the webhook, and refuses where it cannot."""
        number = self.answered["webhook"] + self.answered["no time"]
        head = {"name": f"pod-{number}", "namespace": self.namespace, "annotations": {"model.prestage.dev/llama": "hf://org/m"}}
        spec = {"containers": [{"name": "c", "image": "x"}], "automountServiceAccountToken": False}
        try:
            made = await self.api.create(PODS, {"metadata": head, "spec": spec})
        except PrestageError as exc:
            if not any(one in str(exc) for one in _NO_TIME):
                raise
            self.answered["no time"] += 1
            return
        volumes = cast("list[dict[str, object]]", cast("Object", made["spec"])["volumes"])
        assert any("csi" in one for one in volumes)
        self.answered["webhook"] += 1

    async def shake_hands(self, port: int) -> None:
        """By what is registered: an API server that has no connection yet."""
        found = await self.api.get(MUTATING, NAME)
        [hook] = cast("list[dict[str, dict[str, str]]]", found["webhooks"])
        context = ssl.create_default_context(cadata=base64.b64decode(hook["clientConfig"]["caBundle"]).decode())
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        writer.close()
        await writer.wait_closed()
        self.answered["handshake"] += 1


async def over_and_over(work: Callable[[], Awaitable[None]], pause_s: float) -> None:
    while True:
        await work()
        await asyncio.sleep(pause_s)


async def registered(place: Place, port: int) -> None:
    """With failurePolicy Fail: a call that is not answered is seen. Until admission has written its authorities."""
    await place.api.create(PODS_ACCOUNT, {"metadata": {"name": "default", "namespace": place.namespace}})
    made = mutating_webhook(Client(url=f"https://127.0.0.1:{port}"))
    [hook] = cast("list[dict[str, object]]", made["webhooks"])
    only_here = {"matchLabels": {"kubernetes.io/metadata.name": place.namespace}}
    await place.api.create(MUTATING, {**made, "webhooks": [{**hook, "failurePolicy": "Fail", "namespaceSelector": only_here}]})
    while True:
        found = await place.api.get(MUTATING, NAME)
        [seen] = cast("list[dict[str, dict[str, str]]]", found["webhooks"])
        if seen["clientConfig"].get("caBundle"):
            return
        await asyncio.sleep(0.1)


PODS_ACCOUNT = Resource("v1", "serviceaccounts", "ServiceAccount")


async def started(place: Place, group: asyncio.TaskGroup, stop: asyncio.Event) -> tuple[int, int]:
    """Both serve; returns their ports."""
    here = Address("127.0.0.1", 0)
    config = BrokerConfig(here, here, Accounts(place.namespace), names=("127.0.0.1",), terms=QUICK, refresh_s=0.5)
    told: asyncio.Future[Running] = asyncio.get_running_loop().create_future()
    group.create_task(run_broker(place.api, config, {}, stop, told))
    port = free_port()
    admission = AdmissionConfig(
        ("127.0.0.1", port), None, place.namespace, "prestage-admission", names=("127.0.0.1",), terms=QUICK, refresh_s=0.5
    )
    serving = group.create_task(run_admission(place.api, admission))
    group.create_task(_cancelled_with(stop, serving))
    return (await told).port, port


async def _cancelled_with(stop: asyncio.Event, task: asyncio.Task[None]) -> None:
    await stop.wait()
    task.cancel()


def test_no_question_is_refused_while_authorities_and_certificates_go_round(
    api_server: ApiServer, namespace: str, tmp_path: Path
) -> None:
    install(api_server)

    async def rotate(api: KubeApi) -> Place:
        place, stop = Place(api, namespace, tmp_path), asyncio.Event()
        (tmp_path / "token").write_text("e30.e30.c2ln")
        async with asyncio.TaskGroup() as group:
            broker, webhook = await started(place, group, stop)
            await registered(place, webhook)
            await place.publish()
            asking = [
                group.create_task(over_and_over(*one))
                for one in (
                    (place.publish, 0.2),
                    (lambda: place.ask_broker(broker), 0.1),
                    (place.create_pod, 0.1),
                    (lambda: place.shake_hands(webhook), 0.1),
                )
            ]
            while min(map(len, place.signers.values())) < SIGNERS:
                await place.note_signers()
                await asyncio.sleep(0.2)
            for task in asking:
                task.cancel()
            stop.set()
        return place

    async def bounded() -> Place:
        async with asyncio.timeout(180), await KubeApi.connect(KubeSettings(kubeconfig=api_server.kubeconfig)) as api:
            try:
                return await rotate(api)
            finally:
                with contextlib.suppress(Missing):
                    await api.delete(MUTATING, NAME)

    place = asyncio.run(bounded())
    assert all(place.answered[what] > 20 for what in ("broker", "webhook", "handshake")), place.answered
    assert place.answered["no time"] < place.answered["webhook"], place.answered
    assert all(len(set(names)) == len(names) for names in place.signers.values()), "each another one"
