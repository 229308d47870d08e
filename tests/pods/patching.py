"""JSON patches applied, by the fake API server's own hand."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from prestage.kube.ports import Object, PatchType, Resource
from prestage.kube.testing import FakeApi

_ANY = Resource("test.example/v1", "things", "Thing")


def patched(before: Object, steps: Sequence[Object]) -> object:
    """The object after `steps`."""

    async def work() -> object:
        api = FakeApi()
        await api.create(_ANY, {"metadata": {"name": "it", "namespace": "here"}, "held": before})
        moved = [{**step, "path": "/held" + str(step["path"])} for step in steps]
        return (await api.patch(_ANY, "it", list(moved), namespace="here", type=PatchType.JSON))["held"]

    return asyncio.run(work())
