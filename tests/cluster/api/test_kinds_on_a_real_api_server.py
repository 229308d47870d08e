"""The kinds as a real API server takes them: what is right is stored, what is wrong is refused in our words."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import cast

import pytest
import yaml

from cluster.apiserver import ApiServer
from cluster.kinds import install
from prestage.api.crds import crd, crds
from prestage.api.kinds import KINDS
from prestage.api.models import StagedModel
from prestage.api.reading import read

pytestmark = pytest.mark.needs("kubernetes")

EXAMPLES = (Path(__file__).resolve().parents[3] / "daemonset" / "examples" / "kinds.yaml").read_text()
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


def apply(api: ApiServer, namespace: str, manifest: str, *more: str) -> str:
    """What kubectl says, on stdout or stderr."""
    done = api.try_kubectl("apply", "--server-side", "-n", namespace, "-f", "-", *more, stdin=manifest)
    return done.stdout + done.stderr


def stored(api: ApiServer, namespace: str, name: str) -> dict[str, dict[str, object]]:
    got: dict[str, dict[str, object]] = json.loads(api.kubectl("get", "stagedmodel", name, "-n", namespace, "-o", "json"))
    return got


def test_every_example_is_accepted_dry_and_for_real(api_with_kinds: ApiServer, namespace: str) -> None:
    dry = apply(api_with_kinds, namespace, EXAMPLES, "--dry-run=server", "--validate=strict")
    assert dry.count("serverside-applied (server dry run)") == len(list(yaml.safe_load_all(EXAMPLES))), dry
    assert "No resources found" in api_with_kinds.try_kubectl("get", "stagedmodels", "-n", namespace).stderr
    real = apply(api_with_kinds, namespace, EXAMPLES, "--validate=strict")
    assert real.count("serverside-applied") == dry.count("serverside-applied"), real


WRONG = [
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
    ("StagingSchedule", {"spec.windows": [{"name": "a", "duration": "1h"}]}, "it is always open"),
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


@pytest.mark.parametrize(
    ("kind", "changes", "says"), WRONG, ids=lambda value: str(value)[:60] if isinstance(value, str) else None
)
def test_what_is_wrong_is_refused_in_our_words(
    api_with_kinds: ApiServer, namespace: str, kind: str, changes: dict[str, object], says: str
) -> None:
    said = apply(api_with_kinds, namespace, changed(kind, f"{namespace}-wrong", changes), "--dry-run=server")
    assert says in said
    assert "is invalid" in said or "duplicate" in said


def test_an_unknown_field_is_refused_by_name(api_with_kinds: ApiServer, namespace: str) -> None:
    said = apply(api_with_kinds, namespace, changed("StagedModel", "a", {"spec.sauce": "x"}), "--validate=strict")
    assert "field not declared in schema" in said or 'unknown field "spec.sauce"' in said


@pytest.mark.parametrize(
    ("kind", "path", "value", "says"),
    [
        ("StagedModel", "spec.source", "hf://org/other", "source is immutable: make another StagedModel"),
        ("StorePool", "spec.root", "/mnt/other", "root is immutable: make another StorePool"),
        ("Artifact", "spec.manifest", "AAAA", "an Artifact never changes: make another one"),
    ],
)
def test_what_is_immutable_stays(api_with_kinds: ApiServer, namespace: str, kind: str, path: str, value: str, says: str) -> None:
    first = apply(api_with_kinds, namespace, changed(kind, f"{namespace}-fixed", {}))
    assert "serverside-applied" in first
    assert says in apply(api_with_kinds, namespace, changed(kind, f"{namespace}-fixed", {path: value}))


def test_two_appliers_own_entries_of_one_list_and_meet_in_conflict_on_one_field(
    api_with_kinds: ApiServer, namespace: str
) -> None:
    def schedule(window: str, duration: str, suspend: bool) -> str:
        day = {"name": window, "readySchedule": "0 8 * * *", "duration": duration}
        return changed("StagingSchedule", "shared", {"spec.windows": [day], "spec.suspend": suspend})

    one = apply(api_with_kinds, namespace, schedule("day", "10h", False), "--field-manager=one")
    two = apply(api_with_kinds, namespace, schedule("night", "8h", False), "--field-manager=two")
    assert one.count("serverside-applied") == two.count("serverside-applied") == 1, one + two
    got = api_with_kinds.kubectl("get", "ss", "shared", "-n", namespace, "-o", "jsonpath={.spec.windows[*].name}")
    assert set(got.split()) == {"day", "night"}
    against = apply(api_with_kinds, namespace, schedule("night", "8h", True), "--field-manager=two")
    assert 'conflict with "one": .spec.suspend' in against
    gone = apply(api_with_kinds, namespace, schedule("late", "8h", False), "--field-manager=two")
    assert "serverside-applied" in gone
    got = api_with_kinds.kubectl("get", "ss", "shared", "-n", namespace, "-o", "jsonpath={.spec.windows[*].name}")
    assert set(got.split()) == {"day", "late"}, "what an applier no longer names is gone, the other's stays"


def test_two_reporters_own_a_condition_each(api_with_kinds: ApiServer, namespace: str) -> None:
    apply(api_with_kinds, namespace, changed("StagedModel", "a", {}))

    def report(kind: str, manager: str) -> str:
        one = {"type": kind, "status": "True", "reason": "R", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}
        body = {"apiVersion": "prestage.dev/v1alpha1", "kind": "StagedModel", "metadata": {"name": "a"}}
        return apply(
            api_with_kinds,
            namespace,
            json.dumps({**body, "status": {"conditions": [one]}}),
            "--subresource=status",
            f"--field-manager={manager}",
        )

    assert "serverside-applied" in report("Resolved", "resolver")
    assert "serverside-applied" in report("Warm", "planner")
    conditions = stored(api_with_kinds, namespace, "a")["status"]["conditions"]
    assert {one["type"] for one in cast("list[dict[str, object]]", conditions)} == {"Resolved", "Warm"}


def test_spec_and_status_are_written_apart(api_with_kinds: ApiServer, namespace: str) -> None:
    apply(api_with_kinds, namespace, changed("StagedModel", "a", {"status": {"nodes": {"warm": 9}}}))
    assert "status" not in stored(api_with_kinds, namespace, "a")
    patch = json.dumps({"spec": {"revision": "moved"}, "status": {"nodes": {"warm": 3}}})
    api_with_kinds.kubectl("patch", "sm", "a", "-n", namespace, "--subresource=status", "--type=merge", "-p", patch)
    got = stored(api_with_kinds, namespace, "a")
    assert (got["spec"]["revision"], got["status"]["nodes"], got["metadata"]["generation"]) == (
        "main",
        {"warm": 3, "staging": 0, "wanted": 0},
        1,
    )


def test_kubectl_get_answers_what_where_and_since_when(api_with_kinds: ApiServer, namespace: str) -> None:
    apply(api_with_kinds, namespace, changed("StagedModel", "llama", {}))
    ready = {"type": "Ready", "status": "True", "reason": "Warm", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}
    artifact = {"digest": DIGEST, "revision": "0e9e39f", "files": 12, "size": 16060556376}
    status = {"artifact": artifact, "nodes": {"warm": 3, "staging": 1, "wanted": 4}, "conditions": [ready]}
    api_with_kinds.kubectl(
        "patch", "sm/llama", "-n", namespace, "--subresource=status", "--type=merge", "-p", json.dumps({"status": status})
    )
    head, row = api_with_kinds.kubectl("get", "sm", "-n", namespace).splitlines()
    assert head.split() == ["NAME", "SOURCE", "SIZE", "WARM", "WANTED", "REVISION", "READY", "AGE"]
    assert row.split()[:-1] == ["llama", "hf://meta-llama/Llama-3.1-8B-Instruct", "16060556376", "3", "4", "0e9e39f", "True"]
    assert read(StagedModel, stored(api_with_kinds, namespace, "llama")).status is not None


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_every_kind_is_listed_under_its_names_with_its_columns(api_with_kinds: ApiServer, namespace: str, kind: object) -> None:
    found = next(one for one in KINDS if one is kind)
    apply(api_with_kinds, namespace, changed(found.name, f"{namespace}-listed", {}))
    for name in (found.plural, found.singular, *found.short_names):
        head = api_with_kinds.kubectl(
            "get", f"{name}.prestage.dev" if name == found.plural else name, "-n", namespace, "-o", "wide"
        ).splitlines()[0]
        assert head.split() == ["NAME", *(column.name.upper() for column in found.columns)]
    assert f"{namespace}-listed" in api_with_kinds.kubectl("get", "prestage", "-n", namespace), "the category shows all kinds"


def test_models_are_selected_by_source(api_with_kinds: ApiServer, namespace: str) -> None:
    for name, source in (("a", "hf://org/a"), ("b", "hf://org/b")):
        apply(api_with_kinds, namespace, changed("StagedModel", name, {"spec.source": source}))
    got = api_with_kinds.kubectl("get", "sm", "-n", namespace, "--field-selector", "spec.source=hf://org/b", "-o", "name")
    assert got.split() == ["stagedmodel.prestage.dev/b"]


def test_what_is_stored_under_an_older_definition_stays_readable_and_writable(api_with_kinds: ApiServer, namespace: str) -> None:
    """Yesterday's definition allowed a source that today's refuses, and lacked a field."""
    older = copy.deepcopy(crd(KINDS[0]))
    versions = cast("dict[str, list[dict[str, dict[str, dict[str, object]]]]]", older["spec"])["versions"]
    schema = versions[0]["schema"]["openAPIV3Schema"]
    spec = cast("dict[str, dict[str, dict[str, object]]]", schema["properties"])["spec"]
    del spec["properties"]["onRevoked"]
    cast("dict[str, object]", spec["properties"]["source"]).pop("x-kubernetes-validations")
    try:
        install(api_with_kinds, json.dumps(older))
        old = changed("StagedModel", "old", {"spec.source": "ftp://host/model", "spec.onRevoked": None})
        api_with_kinds.processes.wait_for(
            lambda: "serverside-applied" in apply(api_with_kinds, namespace, old, "--dry-run=server"), what="the older definition"
        )
        assert "serverside-applied" in apply(api_with_kinds, namespace, old)
    finally:
        install(api_with_kinds, crds())
    refused = changed("StagedModel", "new", {"spec.source": "ftp://host/model"})
    api_with_kinds.processes.wait_for(
        lambda: "write hf://org/name" in apply(api_with_kinds, namespace, refused, "--dry-run=server"), what="today's definition"
    )
    moved = {"spec": {"revision": "v2"}, "metadata": {"labels": {"touched": "yes"}}}
    api_with_kinds.kubectl("patch", "sm", "old", "-n", namespace, "--type=merge", "-p", json.dumps(moved))
    api_with_kinds.kubectl(
        "patch", "sm", "old", "-n", namespace, "--subresource=status", "--type=merge", "-p", '{"status":{"nodes":{"warm":1}}}'
    )
    got = stored(api_with_kinds, namespace, "old")
    assert (got["spec"]["onRevoked"], got["spec"]["revision"], got["status"]["nodes"]) == (
        "BlockNewMounts",
        "v2",
        {"warm": 1, "staging": 0, "wanted": 0},
    )
