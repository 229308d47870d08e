"""What a store is opened on, refused on, and finds when it is."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from stores.making import Patterns, Steps, stage
from stores.namespaces import in_a_mount_namespace
from stores.oracle import check_invariants
from stores.scenarios import KNOWN, SHARING, SMALL, is_whole

from prestage.cacher.errors import Bug, Busy, Misconfigured, NotFound
from prestage.cacher.store import format as formats
from prestage.cacher.store.format import unescaped
from prestage.cacher.store.store import Store

CACHER = Path(__file__).parents[4] / "cacher"


def snapshot(root: Path) -> dict[str, object]:
    return {str(path): (path.lstat().st_mode, path.read_bytes() if path.is_file() else b"") for path in root.rglob("*")}


@pytest.fixture
def root(fast_path: Path) -> Path:
    root = fast_path / "store"
    with Store.open(root, own=True) as store:
        stage(store, SMALL)
    return root


@pytest.mark.parametrize(
    ("field", "path"), [("/data", "/data"), (r"/my\040disk\134x", "/my disk\\x"), ("/dåta\\040€", "/dåta €")]
)
def test_a_mount_point_is_read_as_it_is_named(field: str, path: str) -> None:
    assert unescaped(field) == Path(path)


def test_a_new_store_is_private(fast_path: Path) -> None:
    with Store.open(fast_path / "a" / "b", own=True) as store:
        assert store.root.stat().st_mode & 0o777 == 0o700
        names = json.loads((store.root / "format").read_bytes()).keys()
        assert names - {"filesystem_uuid"} == {"layout", "store", "filesystem"}
        assert store.warnings == []


def test_there_is_nothing_to_read_where_there_is_no_store(fast_path: Path) -> None:
    with pytest.raises(NotFound, match="no store at"):
        Store.open(fast_path / "store", own=False)
    assert not (fast_path / "store").exists()


def test_a_directory_that_holds_something_else_is_refused_untouched(fast_path: Path) -> None:
    (fast_path / "photos").mkdir()
    (fast_path / "photos" / "cat.jpg").write_bytes(b"cat")
    with pytest.raises(Misconfigured, match=r"not empty and no store \(it holds 'cat.jpg'\)"):
        Store.open(fast_path / "photos", own=True)
    assert [path.name for path in (fast_path / "photos").iterdir()] == ["cat.jpg"]


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"layout": 2}, "layout 2"),
        ({"filesystem": {"type": "ext4", "id": "00"}}, "another file system"),
        ({"layout": None}, "layout None"),
    ],
)
def test_a_newer_layout_and_another_file_system_are_refused_untouched(
    root: Path, own: bool, change: dict[str, object], says: str
) -> None:
    document = json.loads((root / "format").read_bytes())
    (root / "format").write_text(json.dumps({**document, **change}))
    before = snapshot(root)
    with pytest.raises(Misconfigured, match=says):
        Store.open(root, own=own)
    assert snapshot(root) == before


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"null", b'{"layout": 1}', b"\xff\xfe", b'"' * 99, b"[" * 99_999])
def test_a_damaged_format_file_is_refused_in_one_line(root: Path, raw: bytes) -> None:
    (root / "format").write_bytes(raw)
    with pytest.raises(Misconfigured) as caught:
        Store.open(root, own=True)
    assert "\n" not in str(caught.value)


def test_a_file_system_mounted_inside_the_store_is_refused(tmp_path: Path) -> None:
    script = f"""
set -e
mkdir -p {tmp_path}/store
{sys.executable} -c '
import sys
from pathlib import Path
from prestage.cacher.store.store import Store
Store.open(Path(sys.argv[1]), own=True).close()' {tmp_path}/store
mount -t tmpfs none {tmp_path}/store/blobs
{sys.executable} -c '
import sys
from pathlib import Path
from prestage.cacher.errors import Misconfigured
from prestage.cacher.store.store import Store
for own in (True, False):
    try:
        Store.open(Path(sys.argv[1]), own=own)
    except Misconfigured as exc:
        print(exc)' {tmp_path}/store
"""
    done = in_a_mount_namespace(script)
    assert done.stdout.count("a tmpfs file system is mounted inside the store") == 2


def test_a_disk_that_is_full_is_a_clear_error_and_the_rest_stays_usable(tmp_path: Path) -> None:
    script = f"""
set -e
mkdir -p {tmp_path}/disk
mount -t tmpfs -o size=4m none {tmp_path}/disk
{sys.executable} -c '
import sys
from pathlib import Path
from stores.namespaces import in_a_mount_namespace
from stores.making import Model, Steps, content, stage
from stores.scenarios import SMALL, is_whole
from prestage.cacher.errors import Full
from prestage.cacher.store.store import Store
with Store.open(Path(sys.argv[1]), own=True) as store:
    stage(store, SMALL)
    store.hold(SMALL.artifact, kind="pin")
    big, steps = Model(dict(big=content(5_000_000))), Steps()
    try:
        stage(store, big, steps)
    except Full as exc:
        print("refused:", exc, steps.fetched)
with Store.open(Path(sys.argv[1]), own=True, margin_bytes=0, budget_bytes=None) as store:
    filler = Path(sys.argv[1]).with_name("filler")
    model = Model(dict(big=content(3_000_000)))
    class Late(type(store._parts.disk)):
        def allocate(self, fd, size_bytes, path):
            filler.write_bytes(bytes(2_000_000))
            super().allocate(fd, size_bytes, path)
    store._parts.disk.__class__ = Late
    try:
        stage(store, model)
    except Full as exc:
        print("full midway:", exc)
    filler.unlink()
    print(is_whole(store, SMALL), store.room.usage().reserved, list((store.root / "ingest").iterdir()))
' {tmp_path}/disk/store
"""
    done = in_a_mount_namespace(script)
    refused, midway, rest = done.stdout.splitlines()
    assert "do not fit" in refused
    assert refused.endswith("[]")
    assert "no space left on the disk" in midway
    assert rest == "True 0 []"


@pytest.mark.needs("root", "mount", "mkfs.xfs")
def test_an_xfs_is_the_same_on_another_device(tmp_path: Path) -> None:
    script = f"""
set -e
cd {tmp_path}
truncate -s 400M image other
mkfs.xfs -q image
mkfs.xfs -q other
mkdir disk
one=$(losetup -f --show image)
two=$(losetup -f --show image)
other=$(losetup -f --show other)
trap "umount disk || true; losetup -d $one $two $other" EXIT
opened() {{
    {sys.executable} -c '
import json, os, sys
from pathlib import Path
from prestage.cacher.errors import Misconfigured
from prestage.cacher.store.store import Store
root, fsid = Path("disk/store").absolute(), format(os.statvfs("disk").f_fsid, "016x")
try:
    with Store.open(root, own="own" in sys.argv):
        format = json.loads((root / "format").read_bytes())
        print("opened", format["filesystem"]["id"] == fsid, "filesystem_uuid" in format)
except Misconfigured as exc:
    print("refused", "another file system" in str(exc))
if "old" in sys.argv:
    format.pop("filesystem_uuid")
    (root / "format").write_text(json.dumps(format))
' $@
}}
mount $one disk; opened own; umount disk
mount $two disk; opened read; opened own; opened own old; umount disk
mount $one disk; opened own; umount disk
mount $two disk; opened own; cp -a disk/store copy; umount disk
mount $other disk; cp -a copy disk/store; opened own
"""
    assert in_a_mount_namespace(script).stdout.splitlines() == [
        "opened True True",
        "opened False True",
        "opened True True",
        "opened True True",
        "refused True",  # known by the number of another device alone
        "opened True True",
        "refused True",
    ]


@pytest.mark.parametrize("note", ["kept", "truncated by an older version"])
def test_a_disk_without_a_free_block_is_opened_and_evicted_from(tmp_path: Path, note: str) -> None:
    script = f"""
set -e
mkdir -p {tmp_path}/disk
mount -t tmpfs -o size=4m none {tmp_path}/disk
{sys.executable} -c '
import os, sys
from contextlib import suppress
from pathlib import Path
from stores.making import Model, content, stage
from prestage.cacher.store.locks import owner_of
from prestage.cacher.store.store import Store
root, model = Path(sys.argv[1]), Model(dict(big=content(2_000_000)))
with Store.open(root, own=True, margin_bytes=0, purpose="a much longer purpose than that of the next owner") as store:
    stage(store, model)
if sys.argv[2] != "kept":
    os.truncate(root / "owner", 0)
with suppress(OSError), root.with_name("filler").open("wb", buffering=0) as filler:
    while True:
        filler.write(bytes(4096))
print(os.statvfs(root).f_bavail)
with Store.open(root, own=True, purpose="evict") as store:
    owner = owner_of(root)
    print(owner.purpose if owner is not None else None)
    print(store.evict(model.artifact) >= 2_000_000, os.statvfs(root).f_bavail > 400)
print(owner_of(root))
' {tmp_path}/disk/store "{note}"
"""
    free, owner, evicted, left = in_a_mount_namespace(script).stdout.splitlines()
    assert free == "0"
    assert owner == ("evict" if note == "kept" else "None")
    assert (evicted, left) == ("True True", "None")


def test_a_second_owner_is_told_who_the_first_is(root: Path) -> None:
    with Store.open(root, own=True, purpose="prestage stage hf://org/name"):
        with pytest.raises(Busy) as caught:
            Store.open(root, own=True)
        assert f"process {os.getpid()} (prestage stage hf://org/name) since" in str(caught.value)
        with Store.open(root, own=False) as reader:
            assert is_whole(reader, SMALL)
    with Store.open(root, own=True) as store:
        assert is_whole(store, SMALL)


def test_an_owner_that_waits_gets_the_store_when_it_is_free(root: Path) -> None:
    code = "import sys, time; from pathlib import Path; from prestage.cacher.store.store import Store\n"
    code += "with Store.open(Path(sys.argv[1]), own=True): print('owned', flush=True); sys.stdin.read()"
    environment = {**os.environ, "PYTHONPATH": str(CACHER)}
    argv = [sys.executable, "-c", code, str(root)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stdout.readline() == b"owned\n"
        began = time.monotonic()
        leaves = threading.Timer(0.5, child.stdin.close)
        leaves.start()
        with Store.open(root, own=True, wait_s=30) as store:
            assert is_whole(store, SMALL)
        assert 0.1 < time.monotonic() - began < 30
        leaves.join()


def test_an_owner_that_is_killed_leaves_no_lock(root: Path) -> None:
    child = os.fork()
    if child == 0:
        Store.open(root, own=True)
        os.kill(os.getpid(), 9)
    os.waitpid(child, 0)
    with Store.open(root, own=True) as store:
        assert is_whole(store, SMALL)


def test_a_reader_changes_nothing_but_holds(root: Path) -> None:
    with Store.open(root, own=False) as reader:
        with pytest.raises(Bug):
            reader.evict(SMALL.artifact)
        with pytest.raises(Bug):
            reader.put_manifest(SHARING.manifest)
        with pytest.raises(Bug):
            reader.reserve(1, artifact=SMALL.artifact)
        with pytest.raises(Bug):
            reader.publish_view(SMALL.artifact)
        assert reader.used_bytes() > 9001
        assert reader.free_bytes() > 0


@pytest.mark.parametrize("raw", [None, b"", b"not sqlite at all" * 1000, b"SQLite format 3\x00" + bytes(4096)])
def test_a_lost_or_damaged_index_is_made_again(root: Path, raw: bytes | None) -> None:
    if raw is None:
        (root / "index.db").unlink()
    else:
        (root / "index.db").write_bytes(raw)
    with Store.open(root, own=True) as store:
        assert store.used_bytes() > 9001
        steps = Steps()
        stage(store, SHARING, steps)
        assert steps.fetched == ["config.json"], "reuse by digest works again"
        assert store.warnings == []


def test_an_index_that_is_damaged_in_the_middle_loses_nothing(root: Path) -> None:
    raw = bytearray((root / "index.db").read_bytes())
    for at in range(4096, len(raw), 97):
        raw[at] ^= 0x5A
    (root / "index.db").write_bytes(raw)
    with Store.open(root, own=True) as store:
        assert is_whole(store, SMALL)
        stage(store, SHARING)
        assert is_whole(store, SHARING)
        assert store.room.usage().used >= 0


def test_foreign_files_are_reported_and_left_alone(root: Path) -> None:
    foreign = [
        root / "README",
        root / "blobs" / "zz-note",
        root / "blobs" / "ab" / "note.txt",
        root / "ingest" / "mine",
        root / "views" / "mine",
        root / "refs" / "mine.json",
        root / "manifests" / "mine.json",
        root / "holds" / "mine",
        root / "quarantine" / "mine",
    ]
    for path in foreign:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"mine")
    (root / "views" / "link").symlink_to("/etc")
    with Store.open(root, own=True, budget_bytes=1 << 40) as store:
        assert sorted(warning.partition(" is not ours")[0] for warning in store.warnings) == sorted(
            map(str, [*foreign, root / "views" / "link"])
        )
        assert is_whole(store, SMALL)
        stage(store, SHARING)
        store.evict(SMALL.artifact)
        assert [row.artifact for row in store.list()] == [SHARING.artifact]
    assert all(path.read_bytes() == b"mine" for path in foreign)


def test_a_missing_folder_is_made_again(root: Path) -> None:
    shutil.rmtree(root / "quarantine")
    shutil.rmtree(root / "refs")
    with Store.open(root, own=True) as store:
        stage(store, SMALL)
        assert store.lookup(SMALL.name) == SMALL.artifact
    check_invariants(root, KNOWN)


def test_a_ref_is_looked_up_as_it_was_staged(root: Path) -> None:
    with Store.open(root, own=True) as store:
        assert store.lookup("hf://org/name") == SMALL.artifact, "main is the default revision"
        assert store.lookup(SMALL.artifact) == SMALL.artifact
        assert store.lookup(f"hf://org/other@{SMALL.artifact}") == SMALL.artifact, "a pin wins"
        assert store.lookup(SMALL.name, Patterns()) == SMALL.artifact
        for unknown in ("hf://org/nothing", "sha256:" + "0" * 64, f"hf://org/name@sha256:{'0' * 64}"):
            with pytest.raises(NotFound, match="stage it first"):
                store.lookup(unknown)
        with pytest.raises(NotFound):
            store.lookup(SMALL.name, Patterns(include=("*.json",)))
        with pytest.raises(Misconfigured):
            store.lookup("sha256:12")


def test_a_ref_with_several_selections_is_named_by_its_artifacts(root: Path) -> None:
    with Store.open(root, own=True) as store:
        stage(store, SHARING)
        store.record_ref("hf://org/both@main", Patterns(include=("a",)), SMALL.artifact)
        assert store.lookup("hf://org/both@main") == SMALL.artifact
        store.record_ref("hf://org/both@main", Patterns(include=("b",)), SHARING.artifact)
        with pytest.raises(Misconfigured) as caught:
            store.lookup("hf://org/both@main")
        assert SMALL.artifact in str(caught.value)
        assert SHARING.artifact in str(caught.value)
        assert store.lookup("hf://org/both@main", Patterns(include=("b",))) == SHARING.artifact


def test_a_warm_ref_is_found_by_its_own_file_however_many_others_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Store.open(tmp_path / "store", own=True) as store:
        stage(store, SMALL)
        monkeypatch.setattr(type(store._parts.artifacts), "refs", lambda _: pytest.fail("read every ref"))
        assert store.lookup(SMALL.name) == SMALL.artifact


@pytest.mark.needs("root")
def test_a_store_stays_its_owners_whoever_opens_it_as_root(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is known of the file system is written down by its owner only."""
    os.chown(root / "format", 1000, 1000)
    before = (root / "format").read_bytes()
    known = formats.filesystem_identity(root)
    monkeypatch.setattr(formats, "filesystem_identity", lambda _: {**known, "filesystem_uuid": "another"})
    with Store.open(root, own=True):
        assert (root / "format").read_bytes() == before
    assert (root / "format").stat().st_uid == 1000
    os.chown(root / "format", 0, 0)
    with Store.open(root, own=True):
        assert b"another" in (root / "format").read_bytes()
