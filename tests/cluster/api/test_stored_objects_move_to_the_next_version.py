"""A second version of a kind: both are served, what is stored moves to the new one, the old one may go."""

from __future__ import annotations

import asyncio
import copy
import json
from typing import cast

import pytest

from cluster.apiserver import ApiServer
from cluster.kinds import install
from prestage.api.crds import crd
from prestage.api.kinds import KINDS
from prestage.kube.client import KubeApi
from prestage.kube.errors import Missing
from prestage.kube.migration import migrate
from prestage.kube.ports import Object, Resource, Selection, metadata_of
from prestage.kube.settings import KubeSettings

GROUP = "next.prestage.dev"
OLD = Resource(f"{GROUP}/v1alpha1", "stagedmodels", "StagedModel")
NEW = Resource(f"{GROUP}/v1beta1", "stagedmodels", "StagedModel")
Tree = dict[str, object]


def definition(*versions: str) -> str:
    """StagedModel in a group of its own; the last version is stored."""
    made: Tree = copy.deepcopy(crd(KINDS[0]))
    made["metadata"] = {"name": f"stagedmodels.{GROUP}"}
    spec = cast(Tree, made["spec"])
    spec["group"] = GROUP
    names = cast(Tree, spec["names"])
    del names["shortNames"], names["categories"]
    [version] = cast(list[Tree], spec["versions"])
    spec["versions"] = [{**version, "name": name, "storage": name == versions[-1]} for name in versions]
    return json.dumps(made)


@pytest.mark.needs("kubernetes")
def test_stored_objects_move_and_the_old_version_may_go(api_server: ApiServer, namespace: str) -> None:
    def key(number: int) -> str:
        return f"{GROUP}/stagedmodels/{namespace}/a{number}"

    async def test() -> None:
        async with await KubeApi.connect(KubeSettings(kubeconfig=api_server.kubeconfig)) as api:
            made: list[Object] = []
            for number in range(3):
                body = {"metadata": {"name": f"a{number}", "namespace": namespace}, "spec": {"source": "hf://org/name"}}
                made.append(await api.create(OLD, {"apiVersion": OLD.group_version, "kind": OLD.kind, **body}))
            assert await migrate(api, OLD) == 0
            await asyncio.to_thread(install, api_server, definition("v1alpha1", "v1beta1"))
            while await _missing(api):
                await asyncio.sleep(0.05)
            assert [api_server.stored(key(number))["apiVersion"] for number in range(3)] == [OLD.group_version] * 3
            assert await migrate(api, NEW) == 3
            assert [api_server.stored(key(number))["apiVersion"] for number in range(3)] == [NEW.group_version] * 3
            assert await migrate(api, NEW) == 0
            await asyncio.to_thread(install, api_server, definition("v1beta1"))
            moved = (await api.page(NEW, Selection(namespace))).items
            assert [(metadata_of(one)["uid"], one["spec"]) for one in moved] == [
                (metadata_of(one)["uid"], one["spec"]) for one in made
            ]

    async def _missing(api: KubeApi) -> bool:
        try:
            await api.page(NEW, Selection(namespace))
        except Missing:
            return True
        return False

    install(api_server, definition("v1alpha1"))
    asyncio.run(asyncio.wait_for(test(), 90))
