"""The kinds as a real API server takes them: what is right is stored, what is wrong is refused in our words."""

from __future__ import annotations

import copy
import json
from typing import cast

import pytest
import yaml

from cluster.apiserver import ApiServer
from cluster.kinds import install
from cluster.wrong import DIGEST, EXAMPLES, WRONG, changed
from prestage.api.crds import crd, crds
from prestage.api.kinds import KINDS
from prestage.api.models import StagedModel
from prestage.api.policies import CachePolicy
from prestage.api.reading import Invalid, read

pytestmark = pytest.mark.needs("kubernetes")


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


@pytest.mark.parametrize(
    ("kind", "changes", "says"), WRONG, ids=lambda value: str(value)[:60] if isinstance(value, str) else None
)
def test_what_is_wrong_is_refused_in_our_words(
    api_with_kinds: ApiServer, namespace: str, kind: str, changes: dict[str, object], says: str
) -> None:
    said = apply(api_with_kinds, namespace, changed(kind, f"{namespace}-wrong", changes), "--dry-run=server")
    assert says in said
    assert "is invalid" in said or "duplicate" in said


FORMS = [
    *(
        "500Gi",
        ".5Ti",
        "5.Ti",
        "+5Ti",
        "1.5Gi",
        "1e12",
        "1e+12",
        "1E3",
        "3e-1",
        "1.E2",
        "5",
        "5.",
        ".5",
        "+.5G",
        "0",
        "-0",
        "007",
    ),
    *("7m", "7u", "7n", "1k", "1M", "1E", "99Ei", "1e999", "1000000000000000000000"),
    *(
        "Gi",
        ".",
        "+",
        "",
        "1GB",
        "-1",
        "1 Gi",
        " 1",
        "1ki",
        "1K",
        "1.2.3",
        "1e",
        "1e+",
        "1eGi",
        "--1",
        "0x10",
        "1_000",
        "inf",
        "+e3",
        ".e3",
        "e3",
        "E",
        "+.",
    ),
]


def test_a_quantity_is_one_to_the_api_server_and_to_us(api_with_kinds: ApiServer, namespace: str) -> None:
    made = [changed("CachePolicy", f"{namespace}-{n}", {"spec.hard": {"bytesPerNode": one}}) for n, one in enumerate(FORMS)]
    said = apply(api_with_kinds, namespace, "\n---\n".join(made), "--dry-run=server")
    for number, (form, text) in enumerate(zip(FORMS, made, strict=True)):
        try:
            read(CachePolicy, json.loads(text))
            is_read = True
        except Invalid:
            is_read = False
        assert (f"{namespace}-{number} serverside-applied" in said) == is_read, (form, said)


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


def test_an_artifact_is_written_again_whatever_letters_its_manifest_has(api_with_kinds: ApiServer, namespace: str) -> None:
    spec = {"digest": DIGEST, "files": 1, "size": 1, "manifest": "+/+/"}
    made = {"apiVersion": "prestage.dev/v1alpha1", "kind": "Artifact", "metadata": {"name": "letters"}, "spec": spec}
    apply(api_with_kinds, namespace, json.dumps(made))
    status = json.dumps(
        {"status": {"binding": "/+/+", "templates": [{"uid": "u", "hash": "-", "alias": "a", "ref": "hf://o/n"}]}}
    )
    for _ in range(2):
        write = ("patch", "artifact", "letters", "-n", namespace, "--subresource=status", "--type=merge")
        api_with_kinds.kubectl(*write, "-p", status)
    said = apply(api_with_kinds, namespace, json.dumps({**made, "spec": {**spec, "manifest": "AAAA"}}))
    assert "an Artifact never changes" in said


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
