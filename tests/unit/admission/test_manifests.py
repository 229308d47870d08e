"""What is registered: nobody depends on us, and the caBundle follows the certificate."""

from __future__ import annotations

import asyncio
import base64
from functools import partial

import yaml
from click.testing import CliRunner

from prestage.cacher.errors import Unavailable
from prestage.control.admission.authorities import MUTATING, VALIDATING, Bundles, bundled
from prestage.control.admission.manifests import Client, manifests
from prestage.control.admission.rbac import LEADER_RULES, RULES
from prestage.control.cli import control
from prestage.control.podspec import entries, part
from prestage.kube.testing import FakeApi


def test_webhooks_fail_open_in_two_seconds_and_only_where_the_namespace_opted_in() -> None:
    hooks = [hook for one in manifests(Client()) for hook in entries(one, "webhooks")]
    assert [hook["name"] for hook in hooks] == ["pods.prestage.dev", "workloads.prestage.dev"]
    for hook in hooks:
        assert (hook["failurePolicy"], hook["timeoutSeconds"], hook["sideEffects"]) == ("Ignore", 2, "None")
        assert part(hook, "namespaceSelector", "matchLabels") == {"prestage.dev/enabled": "true"}
        assert hook["matchConditions"]
        assert "caBundle" not in part(hook, "clientConfig")


def test_the_policy_that_mutates_is_left_out_where_it_is_not_served() -> None:
    kinds = [one["kind"] for one in manifests(Client(), mutating=None)]
    assert "MutatingAdmissionPolicy" not in kinds
    assert "ValidatingAdmissionPolicy" in kinds
    assert {one["apiVersion"] for one in manifests(Client(), mutating="v1beta1") if "Mutating" in str(one["kind"])} == {
        "admissionregistration.k8s.io/v1",
        "admissionregistration.k8s.io/v1beta1",
    }


def test_the_command_prints_them_all_for_a_namespace() -> None:
    done = CliRunner().invoke(control, ["manifests", "--namespace", "models", "--mutating", "none"])
    assert done.exit_code == 0
    assert list(yaml.safe_load_all(done.output)) == manifests(Client("models"), mutating=None)


def test_the_bundle_is_written_where_it_differs_and_written_again_where_it_was_lost() -> None:
    async def test() -> None:
        api = FakeApi()
        [mutating, validating, *_] = manifests(Client())
        await api.create(MUTATING, mutating)
        await api.create(VALIDATING, validating)
        bundles = Bundles(api, pause_s=0.05)
        task = asyncio.create_task(bundles.run(nothing_new))
        for authorities in (b"old", b"new and old"):
            bundles.trust(authorities)
            wanted = base64.b64encode(authorities).decode()
            for resource in (MUTATING, VALIDATING):
                while bundled(await api.get(resource, "prestage"), authorities):
                    await asyncio.sleep(0.01)
                [hook] = entries(await api.get(resource, "prestage"), "webhooks")
                assert part(hook, "clientConfig")["caBundle"] == wanted
        await api.replace(MUTATING, mutating)
        while bundled(await api.get(MUTATING, "prestage"), b"new and old"):
            await asyncio.sleep(0.01)
        writes = len(api.writes)
        await asyncio.sleep(0.2)
        assert len(api.writes) == writes, "what is right is left alone"
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(asyncio.wait_for(test(), 20))


def test_replicas_of_which_one_made_a_new_authority_do_not_write_over_each_other() -> None:
    async def test() -> None:
        api = FakeApi()
        for resource, made in zip((MUTATING, VALIDATING), manifests(Client()), strict=False):
            await api.create(resource, made)
        secret = b"old"
        one, other = Bundles(api), Bundles(api)

        async def told(bundles: Bundles) -> None:
            bundles.trust(secret)

        tasks = [asyncio.create_task(each.run(partial(told, each))) for each in (one, other)]
        one.trust(secret)
        other.trust(secret)
        await asyncio.sleep(1.5)
        secret, writes = b"new and old", len(api.writes)
        one.trust(secret)
        await asyncio.sleep(2)
        assert len(api.writes) - writes == 2, "each configuration once: the other replica asks the Secret first"
        for resource in (MUTATING, VALIDATING):
            assert not bundled(await api.get(resource, "prestage"), secret)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(asyncio.wait_for(test(), 20))


def test_even_replicas_that_do_not_agree_write_once_a_second() -> None:
    async def test() -> None:
        api = FakeApi()
        [mutating, *_] = manifests(Client())
        await api.create(MUTATING, mutating)
        one, other = Bundles(api), Bundles(api)
        tasks = [asyncio.create_task(each.run(nothing_new)) for each in (one, other)]
        one.trust(b"old")
        other.trust(b"new and old")
        await asyncio.sleep(1.5)
        assert len(api.writes) - 1 <= 4
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(asyncio.wait_for(test(), 20))


def test_without_the_secret_nothing_is_written_before_it_can_be_read() -> None:
    async def test() -> None:
        api = FakeApi()
        [mutating, *_] = manifests(Client())
        await api.create(MUTATING, mutating)
        failures = [Unavailable("away"), Unavailable("away")]

        async def refresh() -> None:
            assert len(api.writes) == 1
            if failures:
                raise failures.pop()

        bundles = Bundles(api, retry_s=0.01)
        task = asyncio.create_task(bundles.run(refresh))
        bundles.trust(b"old")
        while bundled(await api.get(MUTATING, "prestage"), b"old"):
            await asyncio.sleep(0.01)
        assert not failures
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(asyncio.wait_for(test(), 20))


async def nothing_new() -> None:
    """The Secret holds what was told before."""


def test_rules_name_no_secret_but_our_own() -> None:
    for rule in (*RULES, *LEADER_RULES):
        if rule.resource == "secrets":
            assert rule.namespaced
            assert rule.names or rule.verbs == ("create",)
