"""Objects that are wrong in one thing each, made from the examples, and what is said: by the API server and by `reading.read`."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import cast

import yaml

EXAMPLES = (Path(__file__).resolve().parents[2] / "daemonset" / "examples" / "kinds.yaml").read_text()
OBJECTS: dict[str, dict[str, object]] = {}
for _one in yaml.safe_load_all(EXAMPLES):
    OBJECTS.setdefault(_one["kind"], _one)
DIGEST = "sha256:" + "0" * 64


def changed(kind: str, name: str, changes: dict[str, object]) -> str:
    """The example of `kind` with `changes` by dotted path; None takes a field away."""
    made = copy.deepcopy(OBJECTS[kind])
    made["metadata"] = {"name": name}
    for path, value in changes.items():
        at = made
        *parents, last = path.split(".")
        for part in parents:
            at = cast("dict[str, object]", at[part])
        if value is None:
            del at[last]
        else:
            at[last] = value
    return json.dumps(made)


WRONG: list[tuple[str, dict[str, object], str]] = [
    ("StagedModel", {"spec.source": "file:///models"}, "file:// is not served in a cluster"),
    ("StagedModel", {"spec.source": "meta-llama/Llama"}, "write hf://org/name"),
    ("StagedModel", {"spec.source": "hf://org/name@main"}, "a revision goes into spec.revision"),
    ("StagedModel", {"spec.source": None}, "spec.source: Required value"),
    ("StagedModel", {"spec.source": "https://host/file"}, "an https:// source has no revision"),
    ("StagedModel", {"spec.type": "Engine"}, 'supported values: "Model", "Adapter", "CompileCache"'),
    ("StagedModel", {"spec.baseRef": {"name": "llama"}}, "baseRef goes with type: Adapter"),
    ("StagedModel", {"spec.expectedDigest": "0e9e39f"}, "64 lower-case hex digits"),
    ("StagedModel", {"spec.credentials.secretRef": None}, "write secretRef with type: Secret"),
    ("StagedModel", {"spec.credentials": {"type": "ServiceAccount"}}, "write serviceAccount with type: ServiceAccount"),
    (
        "StagedModel",
        {"spec.credentials": {"type": "ServiceAccount", "serviceAccount": {"name": "a", "roleARN": "role/x"}}},
        "write a role's ARN",
    ),
    ("StagedModel", {"spec.originRef": {"name": "Minio"}}, "write a name of lower-case letters"),
    ("StagedModelGrant", {"spec.from": []}, "should have at least 1 items"),
    ("StagedModelGrant", {"spec.from": [{"namespace": "a.b"}]}, "at most 63, e.g. weights"),
    ("StagingSchedule", {"spec.targetRef": None, "spec.nodes": None}, "say where: targetRef"),
    ("StagingSchedule", {"spec.artifacts": [{"name": "a", "type": "Image"}]}, "write image with type: Image"),
    ("StagingSchedule", {"spec.artifacts": [{"name": "a"}]}, "write modelRef with every type but Image"),
    (
        "StagingSchedule",
        {"spec.artifacts": [{"name": "a", "modelRef": {"name": "m"}, "pullSecretRef": {"name": "s"}}]},
        "pullSecretRef goes with type: Image",
    ),
    ("StagingSchedule", {"spec.windows": [{"name": "a", "readySchedule": "0 8 * * *"}]}, "needs a duration, e.g. 10h"),
    ("StagingSchedule", {"spec.windows": [{"name": "a", "duration": "1h"}]}, "one without is always open"),
    (
        "StagingSchedule",
        {"spec.windows": [{"name": "a", "readySchedule": "0 8 * * *", "readyBy": "2027-01-01T00:00:00Z", "duration": "1h"}]},
        "write readySchedule (again and again) or readyBy (once), not both",
    ),
    (
        "StagingSchedule",
        {"spec.windows": [{"name": "a", "timeZone": "UTC", "readyBy": "2027-01-01T00:00:00Z", "duration": "1h"}]},
        "readyBy carries its own offset",
    ),
    ("StagingSchedule", {"spec.windows": [{"name": "a", "readySchedule": "@daily", "duration": "1h"}]}, "write five cron fields"),
    (
        "StagingSchedule",
        {"spec.windows": [{"name": "a", "readySchedule": "0 8 * * *", "duration": "1d"}]},
        "write a duration as 10h",
    ),
    (
        "StagingSchedule",
        {"spec.windows": [{"name": "a", "readySchedule": "0 8 * * *", "timeZone": "+01:00", "duration": "1h"}]},
        "write a zone of the IANA table",
    ),
    ("StagingSchedule", {"spec.windows": [{"name": "a"}, {"name": "a"}]}, "duplicate entries for key"),
    ("CachePolicy", {"spec.hard.bytes": "500GB"}, "write bytes as 500Gi, 2T or a plain number"),
    ("CachePolicy", {"spec.hard.bytes": -1}, "write bytes as 500Gi, 2T or a plain number"),
    ("CachePolicy", {"spec.hard.bytes": "-1Gi"}, "write bytes as 500Gi, 2T or a plain number"),
    ("CachePolicy", {"spec.namespaceSelector": None}, "spec.namespaceSelector: Required value"),
    (
        "CachePolicy",
        {"spec.namespaceSelector": {"matchExpressions": [{"key": "a", "operator": "In"}]}},
        "In and NotIn need values",
    ),
    ("Origin", {"spec.endpoint": "minio.fra.example"}, "write a URL without query"),
    ("Origin", {"spec.type": "GCS", "spec.pathStyle": False}, "region goes with type: S3"),
    ("Origin", {"spec.type": "GCS", "spec.region": None}, "pathStyle goes with type: S3"),
    ("Origin", {"spec.default": True, "spec.mirrorOf": {"name": "x"}}, "a mirror is never the default"),
    ("Origin", {"spec.allowedCIDRs": ["10.20.0.0"]}, "write a network as 10.20.0.0/16"),
    ("Origin", {"spec.allowedCIDRs": ["10.20.0.0/99"]}, "write a network as 10.20.0.0/16"),
    ("StorePool", {"spec.root": "/"}, "write an absolute path below the root folder"),
    ("StorePool", {"spec.root": "/mnt/../etc"}, "write an absolute path below the root folder"),
    ("StorePool", {"spec.reserveFreePercent": 99}, "should be less than or equal to 90"),
    ("StorePool", {"spec.mirrors": [{"prefix": "hub", "originRef": {"name": "x"}}]}, "write the beginning of refs"),
    ("NodeCache", {"spec.artifacts": [{"digest": DIGEST, "action": "Delete"}]}, 'supported values: "Stage", "Keep", "Release"'),
    (
        "NodeCache",
        {"spec.artifacts": [{"digest": DIGEST, "action": "Stage", "sources": [{"type": "Peer"}]}]},
        "write node with type: Peer",
    ),
    ("Artifact", {"spec.digest": "md5:1"}, "spec.digest"),
]
