"""What is registered: nobody depends on us, and the caBundle follows the certificate."""

from __future__ import annotations

import asyncio
import base64

import yaml
from click.testing import CliRunner

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
        bundles = Bundles(api, retry_s=0.05)
        task = asyncio.create_task(bundles.run())
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


def test_rules_name_no_secret_but_our_own() -> None:
    for rule in (*RULES, *LEADER_RULES):
        if rule.resource == "secrets":
            assert rule.namespaced
            assert rule.names or rule.verbs == ("create",)
