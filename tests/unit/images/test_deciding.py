"""What to do next: the plan by what containerd has, leases by their labels, what a setup means."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from layers import curious, image

from prestage.images import leasing
from prestage.images.containerd.leases import Lease
from prestage.images.containerd.setup import Setup
from prestage.images.descriptors import parse_image_manifest
from prestage.images.doctor import findings
from prestage.images.image import Image, assemble
from prestage.images.names import OciDigest, parse_oci
from prestage.images.plan import Need, Seen, plan
from prestage.images.progress import Progress
from prestage.images.room import Disk, is_over, needed_bytes, why_not

SETUP = Setup("1.7.24", "overlayfs", "overlayfs", ("native", "overlayfs"), (), False, "/var/lib/containerd/…overlayfs")


def twelve() -> Image:
    made = image([(tar, "gzip") for tar in curious()])
    manifest = parse_image_manifest(made.top)
    name = parse_oci("oci://reg.example/app:1")
    return assemble(name, "oci:https://reg.example/app", (OciDigest(made.digest),), manifest, made.blobs[manifest.config.digest])


TWELVE = twelve()


def test_on_a_clean_node_every_blob_is_fetched_once_and_every_layer_unpacked() -> None:
    todo = plan(TWELVE, Seen((), ()))
    assert len(todo.unpacks) == 12
    assert len(todo.fetches) == 11, "the empty layer stands twice"
    assert todo.fetch_bytes == TWELVE.size_bytes
    assert todo.unpack_bytes > TWELVE.size_bytes


@given(st.sets(st.integers(0, 11)), st.sets(st.integers(0, 11)))
def test_whatever_is_there_the_rest_is_done_in_order_and_nothing_twice(chains: set[int], blobs: set[int]) -> None:
    seen = Seen({TWELVE.layers[n].chain for n in chains}, {TWELVE.layers[n].blob.digest for n in blobs})
    todo = plan(TWELVE, seen)
    first = max(chains, default=-1) + 1
    assert [layer for layer, need in todo.steps if need is Need.NOTHING] == list(TWELVE.layers[:first])
    assert todo.unpacks == TWELVE.layers[first:]
    assert {blob.digest for blob in todo.fetches} == {layer.blob.digest for layer in TWELVE.layers[first:]} - set(seen.blobs)
    assert len(todo.fetches) == len({blob.digest for blob in todo.fetches})
    assert todo.is_done == (first == 12)


def test_a_lease_says_what_it_is_for_and_when_it_ends() -> None:
    terms = leasing.Terms.of(TWELVE, "overlayfs")
    lease = leasing.fresh(terms, 3, 1_800_000_000.7)
    stored = lease.lease()
    assert stored.labels["containerd.io/gc.expire"] == "2027-01-15T08:00:00Z"
    assert leasing.read(stored) == lease
    assert lease.ends_before(1_800_000_001)
    assert not lease.ends_before(1_799_999_999)


def test_the_newest_lease_of_an_artifact_comes_first_and_others_are_left_alone() -> None:
    terms = leasing.Terms.of(TWELVE, "overlayfs")
    leases = [leasing.fresh(terms, n, 1e9).lease() for n in (2, 10, 1)]
    found = leasing.ours([*leases, Lease("kubelet-7", {}), Lease("prestage-collect-ab", {})])
    assert [one.number for one in found[terms.artifact]] == [10, 2, 1]


@given(
    st.text(max_size=40),
    st.dictionaries(
        st.sampled_from([*leasing.fresh(leasing.Terms.of(TWELVE, "x"), 1, 1e9).lease().labels]), st.text(max_size=80)
    ),
)
def test_labels_that_others_wrote_are_read_or_left(lease: str, labels: dict[str, str]) -> None:
    leasing.read(Lease(lease, labels))
    ours = leasing.fresh(leasing.Terms.of(TWELVE, "overlayfs"), 1, 1e9).lease()
    leasing.read(Lease(ours.id, {**ours.labels, **labels}))


def test_progress_counts_what_is_missing_and_never_goes_over() -> None:
    progress = Progress()
    progress.begun(plan(TWELVE, Seen((), ())))
    for blob in plan(TWELVE, Seen((), ())).fetches:
        progress.came(blob.digest, blob.size_bytes // 2)
        progress.came(blob.digest, blob.size_bytes)
        progress.came(blob.digest, blob.size_bytes // 3)
    assert progress.fetched == progress.fetch_total
    assert progress.step == "unpack"


def test_progress_goes_on_from_where_an_attempt_was_broken_off() -> None:
    progress, first, *_ = Progress(), *TWELVE.layers
    progress.begun(plan(TWELVE, Seen((), ())))
    total, unpack_total = progress.fetch_total, progress.unpack_total
    progress.stopped("pull")
    progress.begun(plan(TWELVE, Seen({first.chain}, {first.blob.digest, TWELVE.layers[1].blob.digest})))
    assert (progress.fetch_total, progress.unpack_total) == (total, unpack_total)
    assert progress.fetched == first.blob.size_bytes + TWELVE.layers[1].blob.size_bytes
    assert progress.unpacked == first.blob.size_bytes
    progress.begun(plan(TWELVE, Seen({TWELVE.top}, ())))
    assert (progress.fetched, progress.unpacked, progress.step) == (total, unpack_total, "unpack")


def test_what_came_and_is_not_containerds_is_not_counted_once_an_attempt_is_broken_off() -> None:
    progress, blob = Progress(), TWELVE.layers[0].blob
    progress.begun(plan(TWELVE, Seen((), ())))
    progress.kept(blob.digest, 10)
    progress.came(blob.digest, 30)
    assert progress.fetched == 30
    progress.stopped("pause")
    assert (progress.step, progress.fetched) == ("pause", 10)


@pytest.mark.parametrize(
    ("setup", "marks"),
    [
        (SETUP, ["ok", "ok"]),
        (replace(SETUP, version="1.5.1"), ["bad", "ok"]),
        (replace(SETUP, version="v3.0.0", discards_layers=None), ["note", "ok", "note"]),
        (replace(SETUP, discards_layers=True), ["ok", "ok", "note"]),
        (replace(SETUP, pulls_use="soci"), ["ok", "bad"]),
        (replace(SETUP, pulls_use="soci", snapshotter="soci", proxied=("soci",)), ["ok", "bad", "note"]),
        (replace(SETUP, pulls_use=""), ["ok", "note"]),
    ],
)
def test_the_doctor_says_what_of_a_setup_matters(setup: Setup, marks: list[str]) -> None:
    assert [finding.mark for finding in findings(setup)] == marks


@pytest.mark.parametrize(("used", "fits"), [(0.0, True), (0.5, True), (0.79, False), (0.8, False), (0.95, False)])
def test_an_image_is_begun_only_where_it_stays_below_the_mark(used: float, fits: bool) -> None:
    todo = plan(TWELVE, Seen((), ()))
    total = needed_bytes(todo) * 10
    assert (why_not(todo, Disk(total, round(total * (1 - used))), 0.8) is None) is fits


def test_what_is_there_already_needs_no_room() -> None:
    done = plan(TWELVE, Seen({TWELVE.top}, ()))
    assert why_not(done, Disk(1000, 0), 0.8) is None
    assert is_over(Disk(1000, 90), 0.8)
    assert not is_over(Disk(1000, 110), 0.8)
