"""What Artifacts share, as the planner reads it off manifests while they come in: enough to choose a node by, and no more."""

from __future__ import annotations

import base64
import gzip
import json

from hypothesis import given
from hypothesis import strategies as st
from planning.objects import Mirrored, head, line, namespace, node, node_cache, pod, replica_set, template

from prestage.api.nodes import Action
from prestage.cacher.digests import Digest
from prestage.cacher.manifest import FileEntry, Manifest, manifest_of
from prestage.control.broker.records import artifact_object
from prestage.control.broker.sources import Trace
from prestage.control.demand.contents import FILES_MAX, PARTS, Contents, packed_parts
from prestage.control.demand.trimming import trimmed_artifact
from prestage.control.planning.seeing import Seeing
from prestage.kube.ports import Object
from prestage.kube.resources import ARTIFACTS
from prestage.planner.apart import plan_apart
from prestage.planner.likeness import Parts

MIB = 2**20
HUB = "hf:https://hub.example/org/name"
OTHER = "hf:https://hub.example/org/fork"


def sha(word: str) -> Digest:
    return Digest(f"sha256:{word.encode().hex():0>64}")


def hub(revision: str, *shards: str, authority: str = HUB, size: int = 500 * MIB) -> Manifest:
    """Of shards that the origin gives a SHA-256 of."""
    files = [FileEntry(f"{number}.safetensors", size, digest=sha(shard)) for number, shard in enumerate(shards)]
    return manifest_of(authority, "", files, revision=revision)


def image(*layers: str) -> Manifest:
    files = [FileEntry(f"layers/{number:03}", 100 * MIB, digest=sha(layer)) for number, layer in enumerate(layers)]
    return manifest_of("oci:registry.example/app", "", [FileEntry("config", 2 * MIB, digest=sha("c")), *files], kind="image")


def seen(manifest: Manifest, *, owner: str = "team", name: str = "llama") -> Object:
    """As the API server has it once the broker wrote it."""
    made = dict(artifact_object(manifest, owner, "hf://org/name", Trace(ref="hf://org/name")))
    metadata = made["metadata"]
    assert isinstance(metadata, dict)
    uses = [line(uid=name)._asdict()]
    return {**made, "kind": "Artifact", "metadata": {**metadata, **head(metadata["name"], owner)}, "status": {"templates": uses}}


def shared(*manifests: Manifest) -> dict[str, int]:
    """By artifact: bytes that others have too."""
    parts = Contents().look(trimmed_artifact(seen(one)) for one in manifests)
    return {artifact: sum(own.values()) for artifact, own in parts.of.items()}


def test_a_new_revision_goes_to_the_node_that_holds_what_did_not_change() -> None:
    old, new = hub("v1", "a", "b", "c"), hub("v2", "a", "b", "d")
    small = node_cache("n1", budget="4Gi", artifacts=[{"digest": old.artifact, "state": "Warm"}])
    objects = [namespace(), node("n1"), node("n2"), small, node_cache("n2", budget="64Gi"), replica_set()]
    waiting = pod(owner=("ReplicaSet", "web-abc"), gates=["prestage.dev/warm"], made=template())
    mirrors = Mirrored(*objects, waiting, seen(old, name="gone"), seen(new, name="web-uid"))
    sight = Seeing().look(mirrors, 1e9)
    made = plan_apart(sight.demands, sight.nodes, sight.images, 1e9, parts=sight.parts)
    assert {
        name: [one.action for one in said.assignments if one.artifact == new.artifact] for name, said in made.nodes.items()
    } == {
        "n1": [Action.STAGE],
        "n2": [],
    }
    without = plan_apart(sight.demands, sight.nodes, sight.images, 1e9)
    assert [one.artifact for one in without.nodes["n2"].assignments] == [new.artifact]


def test_files_are_one_where_a_node_would_not_fetch_the_second() -> None:
    v1, v2 = hub("v1", "a", "b"), hub("v2", "a", "c")
    assert shared(v1, v2) == dict.fromkeys((v1.artifact, v2.artifact), 500 * MIB)
    assert shared(v1, hub("v1", "a", "b", authority=OTHER)) == {}, "knowing a digest grants nothing"
    assert shared(v1) == {}

    def bucket(etag: str, path: str = "w.bin") -> Manifest:
        rest = FileEntry("rest.bin", 2 * MIB, etag=f"rest of {etag} {path}")
        return manifest_of("s3:https://s3.example/weights", "m/", [FileEntry(path, 9 * MIB, etag=etag), rest])

    same = manifest_of("s3:https://s3.example/weights", "m/", [FileEntry("w.bin", 9 * MIB, etag="1")])
    assert shared(bucket("1"), same) == {bucket("1").artifact: 9 * MIB, same.artifact: 9 * MIB}
    assert shared(bucket("1"), bucket("2")) == shared(bucket("1"), bucket("1", "x.bin")) == {}


def test_a_layer_is_the_same_where_all_below_it_are() -> None:
    first, upper, other = image("base", "engine", "app"), image("base", "engine", "app2"), image("else", "engine", "app")
    assert shared(first, upper) == dict.fromkeys((first.artifact, upper.artifact), 200 * MIB)
    assert shared(first, other) == {}


def test_of_a_manifest_a_kibibyte_is_kept_and_nothing_of_small_files() -> None:
    many = hub("v1", *(f"s{number}" for number in range(500)))
    kept = trimmed_artifact(seen(many))
    assert len(bytes(kept[PARTS])) == FILES_MAX * 16  # type: ignore[call-overload]  # an object's values are objects
    assert trimmed_artifact(seen(hub("v1", "a", size=MIB - 1)))[PARTS] == b""


def test_what_cannot_be_read_shares_nothing_and_costs_nothing() -> None:
    bomb = base64.b64encode(gzip.compress(b" " * 16 * MIB)).decode()
    lying = base64.b64encode(
        gzip.compress(json.dumps({"authority": "a", "base": "", "kind": "model", "files": 7}).encode())
    ).decode()
    for manifest in (None, 7, "", "AA==", "é", "x" * 2**19, bomb, lying):
        assert packed_parts(manifest) == b""


_FILES = st.fixed_dictionaries(
    {"path": st.text(max_size=5), "size": st.integers(-(2**70), 2**70)},
    optional={"digest": st.none() | st.text(max_size=9), "etag": st.text(max_size=3)},
)
_MANIFESTS = st.fixed_dictionaries({"authority": st.text(), "base": st.text(), "kind": st.text(), "files": st.lists(_FILES)})


@given(st.binary() | st.text() | _MANIFESTS.map(json.dumps) | st.recursive(st.none() | st.text(), st.lists).map(json.dumps))
def test_no_manifest_makes_the_mirror_fail(manifest: bytes | str) -> None:
    raw = manifest if isinstance(manifest, bytes) else manifest.encode("utf-8", "surrogatepass")
    for text in (base64.b64encode(gzip.compress(raw)).decode(), raw.decode("latin-1")):
        assert len(packed_parts(text)) % 16 == 0


@given(
    st.lists(st.dictionaries(st.sampled_from("uvwxyz"), st.sets(st.sampled_from("abcdef")), max_size=6), min_size=1, max_size=6)
)
def test_what_changed_since_the_last_look_gives_what_all_read_anew_gives(looks: list[dict[str, set[str]]]) -> None:
    kept = Contents()
    for look in looks:
        found = [_made_of(name, shards) for name, shards in look.items()]
        assert kept.look(found) == Contents().look(found) == _by_hand(look)


def _made_of(name: str, shards: set[str]) -> Object:
    read = {"authority": HUB, "base": "", "kind": "model"}
    files = [{"path": one, "size": MIB, "digest": f"sha256:{one}"} for one in sorted(shards)]
    packed = base64.b64encode(gzip.compress(json.dumps({**read, "files": files}).encode())).decode()
    return trimmed_artifact({"metadata": head(name), "spec": {"digest": name, "manifest": packed}})


def _by_hand(look: dict[str, set[str]]) -> Parts:
    holders = {_number(one): {name for name, shards in look.items() if one in shards} for one in "abcdef"}
    holders = {part: those for part, those in holders.items() if len(those) > 1}
    of = {name: {part: MIB for part, those in holders.items() if name in those} for name in look}
    return Parts({name: own for name, own in of.items() if own}, holders)


def _number(shard: str) -> int:
    packed = _made_of("x", {shard})[PARTS]
    assert isinstance(packed, bytes)
    return int.from_bytes(packed[:8], "little")


def test_the_mirrors_keep_them() -> None:
    mirrors = Mirrored(namespace(), seen(hub("v1", "a")))
    [kept] = mirrors[ARTIFACTS]
    assert len(str(kept)) < 2000
    assert isinstance(kept[PARTS], bytes)
    assert len(kept[PARTS]) == 16
