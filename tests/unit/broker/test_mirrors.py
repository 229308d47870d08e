"""Which mirrors a node is sent to, in which order, and for what at all. Pure."""

from __future__ import annotations

import pytest

from prestage.api.policies import Mirror, Origin, OriginSpec, OriginType, StorePool, StorePoolSpec
from prestage.api.values import LabelSelector, Metadata, NameRef
from prestage.cacher.digests import Digest
from prestage.cacher.manifest import FileEntry, manifest_of
from prestage.control.broker.mirrors import is_provable, mirrors_of

SHA = Digest("sha256:" + "0" * 64)


def origin(name: str, of: str | None = None, kind: OriginType = OriginType.HUGGING_FACE) -> Origin:
    return Origin(metadata=Metadata(name=name), spec=OriginSpec(type=kind, mirror_of=NameRef(name=of) if of else None))


def pool(name: str, label: str, *mirrors: tuple[str, str]) -> StorePool:
    rows = [Mirror(prefix=prefix, origin_ref=NameRef(name=to)) for prefix, to in mirrors]
    selector = LabelSelector(match_labels={"gpu": label})
    return StorePool(metadata=Metadata(name=name), spec=StorePoolSpec(node_selector=selector, root="/mnt/x", mirrors=rows))


HUB = origin("hub")
ORIGINS = [
    HUB,
    origin("near", "hub"),
    origin("rack", "hub"),
    origin("other", "another"),
    origin("plain"),
    origin("s3", "hub", OriginType.S3),
]


@pytest.mark.parametrize(
    ("ref", "labels", "found"),
    [
        ("hf://meta/llama", {"gpu": "a"}, ["rack", "near"]),
        ("hf://org/model", {"gpu": "a"}, ["near"]),
        ("hf://meta/llama", {"gpu": "b"}, []),
        ("hf://meta/llama", {}, []),
        ("s3://bucket/m/", {"gpu": "a"}, []),
        ("hf://wrong/model", {"gpu": "c"}, []),
        ("hf://twice/model", {"gpu": "d"}, ["near"]),
    ],
)
def test_the_longest_beginning_of_the_nodes_own_pools_first_and_only_copies_of_that_origin(
    ref: str, labels: dict[str, str], found: list[str]
) -> None:
    pools = [
        pool("a", "a", ("hf://", "near"), ("hf://meta/", "rack")),
        pool("c", "c", ("hf://wrong/", "other"), ("hf://wrong/m", "plain"), ("hf://wrong", "s3"), ("hf://", "gone")),
        pool("d", "d", ("hf://", "near")),
        pool("e", "d", ("hf://twice/", "near")),
    ]
    assert [one.metadata.name for one in mirrors_of(ref, HUB, pools, labels, ORIGINS)] == found


def test_a_mirror_serves_only_what_its_origin_states_the_digests_of() -> None:
    whole = [FileEntry("a", 1, digest=SHA), FileEntry("empty", 0)]
    assert is_provable(manifest_of("hf:https://h/o/m", "", whole))
    assert not is_provable(manifest_of("hf:https://h/o/m", "", [*whole, FileEntry("b", 1, etag='"x"')]))
