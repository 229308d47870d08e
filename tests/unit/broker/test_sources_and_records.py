"""From what a user wrote to what is resolved and kept: refs, StagedModels, Artifact objects, and the index over them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable
from typing import TypeVar

import pytest

from prestage.api.artifacts import Artifact, TemplateUse
from prestage.api.models import StagedModel
from prestage.api.reading import read
from prestage.cacher.digests import Digest
from prestage.cacher.errors import Corrupt
from prestage.cacher.manifest import FileEntry, Manifest, manifest_of
from prestage.cacher.refs import HfRef, S3Ref
from prestage.control.broker import records
from prestage.control.broker.records import Records, artifact_object, packed, raw_manifest
from prestage.control.broker.refusals import No
from prestage.control.broker.shelf import TRACES_MAX, Shelf, kept, traces_in, trimmed
from prestage.control.broker.sources import ALL, Trace, content_of, of_model, of_ref, read_wish
from prestage.kube.ports import Object, Resource
from prestage.kube.resources import ARTIFACTS
from prestage.kube.testing import FakeApi

Answer = TypeVar("Answer")
MANIFEST = manifest_of("hf:https://h/o/n", "", [FileEntry("a", 1, digest=Digest("sha256:" + "0" * 64))], revision="c" * 40)
TRACE = Trace(ref="hf://o/n@main", secret="token")


def run(test: Awaitable[Answer]) -> Answer:
    async def bounded() -> Answer:
        async with asyncio.timeout(30):
            return await test

    return asyncio.run(bounded())


def code(found: pytest.ExceptionInfo[No]) -> str:
    return found.value.refusal.code


def model(**spec: object) -> StagedModel:
    metadata = {"name": "m", "namespace": "team-a", "uid": "u"}
    return read(StagedModel, {"kind": "StagedModel", "metadata": metadata, "spec": {"source": "hf://o/n", **spec}})


def use(uid: str, alias: str = "llama", ref: str = "hf://o/n") -> TemplateUse:
    return TemplateUse(uid=uid, hash="h", alias=alias, ref=ref)


def test_an_annotation_is_a_ref_or_a_staged_model_by_owner() -> None:
    plain = read_wish("a", "hf://o/n@v1", "team-a")
    assert (plain.plain, plain.owner, plain.is_foreign("team-a")) == (HfRef("o/n", "v1"), "team-a", False)
    own, other = read_wish("a", "ref:m", "team-a"), read_wish("a", "ref:team-b/m", "team-a")
    assert (own.model, own.owner, own.is_foreign("team-a")) == ("m", "team-a", False)
    assert (other.model, other.owner, other.is_foreign("team-a")) == ("m", "team-b", True)
    for alias, text in (("a/b", "hf://o/n"), ("..", "hf://o/n"), ("a", "ref:../m"), ("a", "file:///x"), ("a", "")):
        with pytest.raises(No) as found:
            read_wish(alias, text, "team-a")
        assert code(found) == "NoRef"


def test_a_staged_model_says_revision_files_origin_and_digest() -> None:
    digest = "sha256:" + "1" * 64
    full = model(revision="v2", originRef={"name": "hub"}, files={"include": ["*.json"]}, expectedDigest=digest)
    source = of_model(full)
    assert (source.ref, source.origin, source.expected, source.owner) == (HfRef("o/n", "v2"), "hub", digest, "team-a")
    assert source.selection.include == ("*.json",)
    assert of_model(model()).selection == ALL
    assert of_model(model(source="s3://bkt/key", revision="v1")).ref == S3Ref("bkt", "key", "v1")
    for wrong in (model(source="s3://bkt/prefix/", revision="v1"), model(revision="a/../b")):
        with pytest.raises(No) as found:
            of_model(wrong)
        assert code(found) == "NoRevision"
    with pytest.raises(No) as found:
        of_model(model(source="oci://registry/repository"))
    assert code(found) == "NoRef"


def test_what_a_staged_model_stands_for_does_not_move_with_its_credentials() -> None:
    plain = content_of(model())
    assert content_of(model(credentials={"type": "Secret", "secretRef": {"name": "t"}})) == plain
    moved = [model(revision="v2"), model(source="hf://o/m"), model(files={"exclude": ["x"]}), model(originRef={"name": "x"})]
    assert len({plain, *map(content_of, moved)}) == 5


def test_a_pinned_ref_is_expected_to_be_that_artifact() -> None:
    wish = read_wish("a", f"hf://o/n@sha256:{'2' * 64}", "team-a")
    assert wish.plain is not None
    source = of_ref(wish.plain, "team-a", "token")
    assert source.expected == "sha256:" + "2" * 64
    assert source.credentials is not None
    assert of_ref(wish.plain, "team-a", None).credentials is None


def test_an_artifact_holds_its_manifest_and_nothing_secret() -> None:
    made = artifact_object(MANIFEST, "team-a", "hf://o/n@main", TRACE)
    assert raw_manifest(made) == MANIFEST.to_bytes()
    assert made == artifact_object(MANIFEST, "team-a", "hf://o/n@main", TRACE), "packed alike every time"
    artifact = read(Artifact, made)
    assert (artifact.metadata.name, artifact.spec.files, artifact.spec.size) == (MANIFEST.artifact.replace(":", "-"), 1, 1)
    one = kept(made)
    assert (one.revision, one.traces, one.ref) == ("c" * 40, (TRACE,), "hf://o/n@main")


def test_a_manifest_that_is_another_or_none_is_found_out() -> None:
    good = artifact_object(MANIFEST, "team-a", "hf://o/n", TRACE)
    spec = good["spec"]
    assert isinstance(spec, dict)
    other = artifact_object(manifest_of("x", "", [FileEntry("b", 2)]), "team-a", "x", TRACE)["spec"]
    assert isinstance(other, dict)
    for manifest in (other["manifest"], "", "AAAA", "=", None):
        with pytest.raises(Corrupt):
            raw_manifest({**good, "spec": {**spec, "manifest": manifest}})


def test_a_manifest_too_large_for_an_object_is_refused_before_anything_is_written() -> None:
    draw = random.Random(1)
    files = [FileEntry(f"shard-{number}", number, etag=f'"{draw.randbytes(16).hex()}"') for number in range(60_000)]
    with pytest.raises(No) as found:
        packed(manifest_of("s3:https://h/b", "", files))
    assert code(found) == "ManifestTooLarge"
    assert "60000 files" in str(found.value)
    assert len(packed(manifest_of("s3:https://h/b", "", files[:20_000]))) <= records.PACKED_MAX


def test_records_are_added_once_by_whoever_asks() -> None:
    async def test() -> None:
        api = FakeApi()
        book = Records(api)
        writers = [book.write(MANIFEST, "team-a", "hf://o/n", TRACE, [use(str(number))]) for number in range(8)]
        await asyncio.gather(*writers, book.write(MANIFEST, "team-a", "hf://o/n", Trace(model="m"), [use("0")]))
        stored = await api.get(ARTIFACTS, MANIFEST.artifact.replace(":", "-"), namespace="team-a")
        one = kept(stored)
        assert sorted(each.uid for each in one.templates) == list("01234567")
        assert set(one.traces) == {TRACE, Trace(model="m")}
        writes = len(api.writes)
        await book.add("team-a", MANIFEST.artifact, [use("3")])
        assert len(api.writes) == writes
        found = await book.fresh("team-a", "5", "h", "llama", "hf://o/n")
        assert found is not None
        assert found.digest == MANIFEST.artifact
        for uid, alias, ref in (("9", "llama", "hf://o/n"), ("5", "b", "hf://o/n"), ("5", "llama", "hf://o/x")):
            assert await book.fresh("team-a", uid, "h", alias, ref) is None
        assert await book.fresh("team-b", "5", "h", "llama", "hf://o/n") is None
        assert await book.manifest("team-a", MANIFEST.artifact) == MANIFEST.to_bytes()
        assert await book.manifest("team-b", MANIFEST.artifact) is None

    run(test())


def test_an_artifact_of_too_many_templates_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        book = Records(FakeApi())
        await book.write(MANIFEST, "team-a", "hf://o/n", TRACE, [use(str(number)) for number in range(1024)])
        await book.add("team-a", MANIFEST.artifact, [use("7")])
        with pytest.raises(No) as found:
            await book.add("team-a", MANIFEST.artifact, [use("another")])
        assert code(found) == "TooManyTemplates"

    run(test())


def test_only_so_many_ways_to_fetch_are_kept_the_newest_first() -> None:
    async def test() -> None:
        api = FakeApi()
        for number in range(TRACES_MAX + 3):
            await Records(api).write(MANIFEST, "team-a", "hf://o/n", Trace(model=f"m{number}"), [use("1")])
        stored = await api.get(ARTIFACTS, MANIFEST.artifact.replace(":", "-"), namespace="team-a")
        traces = traces_in(stored)
        assert len(traces) == TRACES_MAX
        assert traces[0] == Trace(model=f"m{TRACES_MAX + 2}")
        assert traces_in({"metadata": {"annotations": {"prestage.dev/sources": "rubbish"}}}) == ()

    run(test())


def stored(namespace: str, manifest: Manifest, *uses: TemplateUse) -> Object:
    made = artifact_object(manifest, namespace, "hf://o/n", TRACE)
    rows = [{"uid": one.uid, "hash": one.hash, "alias": one.alias, "ref": one.ref} for one in uses]
    return {**made, "status": {"templates": rows, "binding": "AAAA"}}


def test_the_shelf_follows_what_appears_changes_and_goes() -> None:
    shelf = Shelf()
    other = manifest_of("x", "", [FileEntry("b", 2)])
    first, moved = stored("team-a", MANIFEST, use("1")), stored("team-a", MANIFEST, use("2"), use("3", "b"))
    for one in (first, stored("team-b", MANIFEST), stored("team-a", other, use("4"))):
        shelf.put(trimmed(one))
    assert {one.namespace for one in shelf.holders(MANIFEST.artifact)} == {"team-a", "team-b"}
    found = shelf.recorded("team-a", "1", "h", "llama", "hf://o/n")
    assert found is not None
    assert found.digest == MANIFEST.artifact
    assert shelf.recorded("team-b", "1", "h", "llama", "hf://o/n") is None
    shelf.put(trimmed(moved))
    assert shelf.recorded("team-a", "1", "h", None, None) is None
    assert shelf.recorded("team-a", "3", "h", None, None) is not None
    assert shelf.recorded("team-a", "3", "h", "llama", None) is None
    assert len(shelf.of("team-a")) == 2
    shelf.drop(moved)
    shelf.drop(moved)
    assert shelf.at("team-a", MANIFEST.artifact) is None
    assert shelf.recorded("team-a", "2", "h", None, None) is None
    assert [one.namespace for one in shelf.holders(MANIFEST.artifact)] == ["team-b"]
    assert shelf.holders("sha256:none") == ()


def test_what_is_kept_in_memory_has_no_manifest() -> None:
    whole = stored("team-a", MANIFEST, use("1"))
    small = trimmed(whole)
    spec = whole["spec"]
    assert isinstance(spec, dict)
    assert spec["manifest"] not in repr(small)
    assert "AAAA" not in repr(small)
    assert kept(small) == kept(whole)
    assert kept(small).manifest_chars == len(spec["manifest"])


@pytest.mark.parametrize(
    ("limit", "largest", "expected"),
    [(20, 0, 60), (60, 4000, 180), (180, 4000, 500), (500, 4000, 500), (20, 2**20, 20), (60, 500_000, 33), (20, 2**30, 20)],
)
def test_pages_of_small_artifacts_grow_and_those_of_large_ones_do_not(limit: int, largest: int, expected: int) -> None:
    assert records.next_page(limit, largest) == expected


def test_a_new_artifact_and_its_record_are_two_requests() -> None:
    class Counted(FakeApi):
        asked = 0

        async def get(
            self, resource: Resource, name: str, *, namespace: str | None = None, subresource: str | None = None
        ) -> Object:
            self.asked += 1
            return await super().get(resource, name, namespace=namespace, subresource=subresource)

    async def test() -> None:
        api = Counted()
        await Records(api).write(MANIFEST, "team-a", "hf://o/n", TRACE, [use("0")])
        assert ([verb for verb, _ in api.writes], api.asked) == (["create", "replace"], 0)
        await Records(api).write(MANIFEST, "team-a", "hf://o/n", TRACE, [use("1")])
        assert [each.uid for each in kept((await api.page(ARTIFACTS)).items[0]).templates] == ["0", "1"]

    asyncio.run(test())
