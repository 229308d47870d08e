"""StagingSchedules that ask for nodes, for tests."""

from __future__ import annotations

import datetime
from typing import cast

from planning.objects import line, schedule

from prestage.kube.ports import Object

BEGINS = 1_800_000_000.0
LLAMA = line("llama-uid", "1", "model", "ref:llama")
TARGET = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}


def moment(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def window(name: str = "day", *, begins: float = BEGINS, lasts: str = "1h", **more: object) -> dict[str, object]:
    return {"name": name, "readyBy": moment(begins), "duration": lasts, **more}


def asking(name: str = "day", *windows: object, boot: str | None = None, **spec: object) -> Object:
    made = schedule(name, *(windows or (window(),)))
    said = {key: value for key, value in cast("dict[str, object]", made["spec"]).items() if key != "nodes"}
    capacity = {"type": "CapacityBuffer", **({"bootTime": boot} if boot else {})}
    return {**made, "spec": {**said, "capacity": capacity, **spec}}


def gpus(count: int = 3) -> object:
    return {"selector": {"matchLabels": {"gpu": "h100"}}, "count": count}
