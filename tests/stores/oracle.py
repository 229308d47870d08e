"""The one judge of a store on disk: every invariant of design.md that can be read off the tree, checked from scratch.

It shares no code with the store but the definitions of digests and of the journal's records.
"""

from __future__ import annotations

import hashlib
import json
import re
import stat
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import rfc8785
import xxhash

from prestage.cacher.digests import CHUNK_BYTES, PIECE_BYTES
from prestage.cacher.store import journal
from stores.making import blob_of

FOLDERS = ("blobs", "ingest", "manifests", "refs", "views", "trees", "mounts", "holds", "quarantine")

BOOT = Path("/proc/sys/kernel/random/boot_id")


def check_invariants(
    root: Path, known: Mapping[str, Mapping[str, bytes]], *, damaged: Collection[str] = (), rotten: Collection[str] = ()
) -> None:
    """Assert all that must hold of a store that its owner has opened since the crash.

    `known`: artifact -> path -> the right bytes. `damaged`: artifacts whose view may link to bytes in quarantine.
    `rotten`: blobs that the test itself damaged and nobody found yet.
    """
    assert json.loads((root / "format").read_bytes())["layout"] == 1
    blobs = _check_blobs(root, rotten)
    _check_no_leftovers(root)
    _check_ingests(root, known)
    for view in (root / "views").iterdir():
        artifact = f"sha256:{view.name}"
        _check_view(root, view, known[artifact], blobs, may_be_damaged=artifact in damaged)
    _check_trees(root, known, blobs, damaged=damaged)
    _check_names(root, known)


def _git_sha1(data: bytes) -> str:
    return f"git-sha1:{hashlib.sha1(b'blob %d' % len(data) + bytes(1) + data, usedforsecurity=False).hexdigest()}"


def check_trees(root: Path, known: Mapping[str, Mapping[str, bytes]]) -> int:
    """Assert that each tree is complete or absent, also before anybody has started after a crash; how many there are."""
    return _check_trees(root, known, _check_blobs(root, ()), damaged=())


def _check_trees(
    root: Path, known: Mapping[str, Mapping[str, bytes]], blobs: Mapping[str, Path], *, damaged: Collection[str]
) -> int:
    trees = [path for path in (root / "mounts").iterdir() if not path.name.startswith((".new-", ".gone-"))]
    for tree in trees:
        if (tree / ".tree.json").exists():
            _check_own(root, tree, known)
        else:
            _check_tree(root, tree, known, blobs, damaged=damaged)
    for path in (root / "trees").iterdir() if (root / "trees").exists() else ():
        if not path.name.startswith((".new-", ".gone-")):
            _check_shared(path, known, blobs, damaged=damaged)
    return len(trees)


def _check_own(root: Path, own: Path, known: Mapping[str, Mapping[str, bytes]]) -> None:
    """What is a pod's own is complete and held, and what it shares with others is there, but after the end of its boot."""
    account = json.loads((own / ".tree.json").read_bytes())
    assert account["hold"] == own.name
    boots = set()
    for part in account["parts"]:
        artifact = part["artifact"]
        hold = json.loads((root / "holds" / artifact.partition(":")[2] / f"{own.name}.json").read_bytes())
        assert (hold["tree"], hold["artifact"], hold["pod"]) == (True, artifact, account["mount"]["pod"])
        boots.add(hold["boot"])
        side = own if account.get("flat") else own / part["name"]
        assert hashlib.sha256((side / "manifest.json").read_bytes()).hexdigest() == artifact.partition(":")[2]
        assert json.loads((side / "sums").read_bytes())["files"] == sums_of(known[artifact])
    assert (root / "trees" / _key(account)).is_dir() or boots != {BOOT.read_text().strip()}
    _check_modes(own)


def _key(account: Mapping[str, Any]) -> str:
    """As docs/format.md has it."""
    return hashlib.sha256(rfc8785.dumps([account.get("flat", False), account["parts"]])).hexdigest()


def _check_shared(
    tree: Path, known: Mapping[str, Mapping[str, bytes]], blobs: Mapping[str, Path], *, damaged: Collection[str]
) -> None:
    """It is complete, immutable, nothing leads out of it, and nothing in it tells of a pod."""
    account = json.loads((tree / ".prestage" / ".tree.json").read_bytes())
    assert account.keys() <= {"format", "boot", "parts", "flat"}
    assert _key(account) == tree.name
    assert [path.name for path in (tree / ".prestage").iterdir()] == [".tree.json"]
    for part in account["parts"]:
        _check_files(tree, part, known, blobs, is_damaged=part["artifact"] in damaged, is_flat="flat" in account)
    _check_modes(tree)


def _check_blobs(root: Path, rotten: Collection[str]) -> dict[str, Path]:
    """Invariant 1: a path under blobs/ is whole, verified and immutable, and has its meta."""
    found: dict[str, Path] = {}
    for shelf in (root / "blobs").iterdir():
        names = {entry.name for entry in shelf.iterdir()}
        for name in names:
            path = shelf / name
            assert name.startswith(shelf.name)
            if name.endswith(".meta"):
                assert name.removesuffix(".meta") in names, f"meta without blob: {name}"
                continue
            assert f"{name}.meta" in names, f"blob without meta: {name}"
            data = path.read_bytes()
            if f"blake3-tree:{name}" in rotten and blob_of(data) != f"blake3-tree:{name}":
                continue
            assert blob_of(data) == f"blake3-tree:{name}", f"{name} has other bytes than its name says"
            assert stat.S_IMODE(path.stat().st_mode) == 0o444
            meta = json.loads((shelf / f"{name}.meta").read_bytes())
            assert meta["size"] == len(data)
            assert meta["chunks"] == _chunks(data)
            assert set(meta["digests"]) <= {f"sha256:{hashlib.sha256(data).hexdigest()}", _git_sha1(data)}
            found[name] = path
    return found


def _check_no_leftovers(root: Path) -> None:
    left = [path for path in root.rglob("*") if path.name.startswith((".new-", ".gone-")) or path.name.endswith(".new")]
    assert not left, f"left over: {left}"
    for folder in (root / "holds").iterdir():
        for hold in folder.iterdir():
            assert json.loads(hold.read_bytes())["kind"] in ("pin", "ttl", "run", "mount")


def _check_ingests(root: Path, known: Mapping[str, Mapping[str, bytes]]) -> None:
    """Invariant 5: what is journaled is on disk."""
    sizes = {(path, len(data)): data for files in known.values() for path, data in files.items()}
    for folder in (root / "ingest").iterdir():
        _, _, path, size, *_ = json.loads((folder / "meta").read_bytes())
        data = (folder / "data").read_bytes()
        assert (folder / "data").stat().st_nlink == 1
        records, _ = journal.decode((folder / "journal").read_bytes(), size)
        right = sizes[path, size]
        for piece in records:
            start, stop = piece * PIECE_BYTES, min((piece + 1) * PIECE_BYTES, size)
            assert data[start:stop] == right[start:stop], f"{path}: piece {piece} is journaled and not on disk"


def _check_view(root: Path, view: Path, files: Mapping[str, bytes], blobs: Mapping[str, Path], *, may_be_damaged: bool) -> None:
    """Invariant 2: a view is complete or absent, and what the loader checks it against is right."""
    current, side = view / "current", view / ".prestage" / "current"
    there = {str(path.relative_to(current)): path for path in current.rglob("*") if not path.is_dir()}
    assert there.keys() == files.keys(), (
        f"incomplete view: {set(files) - there.keys()} missing, {there.keys() - set(files)} extra"
    )
    for path in [current, *(path for path in current.rglob("*") if path.is_dir())]:
        assert stat.S_IMODE(path.stat().st_mode) == 0o555
    for name, path in there.items():
        if may_be_damaged and not _is_blob(path, blobs):
            continue
        assert path.read_bytes() == files[name]
        assert stat.S_IMODE(path.stat().st_mode) == 0o444
        assert _is_blob(path, blobs), f"{name} is no published blob"
    raw = (side / "manifest.json").read_bytes()
    assert hashlib.sha256(raw).hexdigest() == view.name
    assert raw == (root / "manifests" / f"{view.name}.json").read_bytes()
    sums = json.loads((side / "sums").read_bytes())
    assert sums["files"] == sums_of(files)


def _check_tree(
    root: Path, tree: Path, known: Mapping[str, Mapping[str, bytes]], blobs: Mapping[str, Path], *, damaged: Collection[str]
) -> None:
    """A client's tree is complete, held, immutable, and nothing in it leads out of it."""
    account = json.loads((tree / ".prestage" / ".tree.json").read_bytes())
    assert account["hold"] == tree.name
    expected = {".prestage", *(part["name"] for part in account["parts"])}
    expected |= {".hf"} if any(part["repo"] for part in account["parts"]) else set()
    assert {path.name for path in tree.iterdir()} == expected
    for part in account["parts"]:
        artifact = part["artifact"]
        hold = json.loads((root / "holds" / artifact.partition(":")[2] / f"{tree.name}.json").read_bytes())
        assert (hold["tree"], hold["artifact"]) == (True, artifact)
        side = tree / ".prestage" / part["name"]
        assert hashlib.sha256((side / "manifest.json").read_bytes()).hexdigest() == artifact.partition(":")[2]
        assert json.loads((side / "sums").read_bytes())["files"] == sums_of(known[artifact])
        _check_files(tree, part, known, blobs, is_damaged=artifact in damaged)
    _check_modes(tree)


def _check_files(
    tree: Path,
    part: Mapping[str, Any],
    known: Mapping[str, Mapping[str, bytes]],
    blobs: Mapping[str, Path],
    *,
    is_damaged: bool,
    is_flat: bool = False,
) -> None:
    files = known[part["artifact"]]
    places = {name: (tree if is_flat else tree / part["name"]) / name for name in files}
    if part["repo"] and not is_flat:
        snapshot = _check_hub(tree / ".hf" / f"models--{part['repo'].replace('/', '--')}", part["revision"], files)
        places |= {f"hub {name}": snapshot / name for name in files}
    for name, place in places.items():
        assert place.resolve().is_relative_to(tree), f"{place} leads out of the tree"
        if not is_damaged:
            assert place.read_bytes() == files[name.removeprefix("hub ")]
            assert _is_blob(place, blobs), f"{place} is no published blob"


def _check_modes(tree: Path) -> None:
    for path in tree.rglob("*"):
        if (
            path.is_socket()
        ):  # a live agent's, which it opens anew when it starts; a pod's own part lies over its tree's .prestage
            assert path in (tree / ".prestage" / "pod.sock", tree / "pod.sock")
            continue
        assert path.is_symlink() or stat.S_IMODE(path.stat().st_mode) == (0o555 if path.is_dir() else 0o444)
        assert not path.is_symlink() or not path.readlink().is_absolute()
    assert stat.S_IMODE(tree.stat().st_mode) == 0o555


def _check_hub(repository: Path, revision: str | None, files: Mapping[str, bytes]) -> Path:
    """The small files of a model repository say what is there. Returns its snapshot."""
    assert len((repository / "refs" / "main").read_text()) == 40
    named = revision is not None and not re.fullmatch("[0-9a-f]{40}", revision)  # a commit names itself
    commit = (repository / "refs" / (revision if named and revision else "main")).read_text()
    listed = json.loads((repository / "trees" / f"{commit}.json").read_bytes())["files"]
    assert {name: listed[name]["size"] for name in files} == {name: len(data) for name, data in files.items()}
    sums = json.loads((repository / ".prestage" / "sums").read_bytes())["files"]
    assert all(sums[f"snapshots/{commit}/{name}"].items() >= row.items() for name, row in sums_of(files).items())
    return repository / "snapshots" / commit


def sums_of(files: Mapping[str, bytes]) -> dict[str, dict[str, object]]:
    """What the sums of these files say of each."""
    return {name: {"size": len(data), "chunks": _chunks(data)} for name, data in files.items()}


def _is_blob(path: Path, blobs: Mapping[str, Path]) -> bool:
    name = blob_of(path.read_bytes()).partition(":")[2]
    return name in blobs and path.samefile(blobs[name])


def _check_names(root: Path, known: Mapping[str, Mapping[str, bytes]]) -> None:
    """Manifests are what their names say, bindings and refs point to something."""
    for path in (root / "manifests").iterdir():
        if path.suffix == ".json":
            assert hashlib.sha256(path.read_bytes()).hexdigest() == path.stem
            continue
        assert path.with_suffix(".json").exists(), "a binding without manifest"
        right = known[f"sha256:{path.stem}"]
        for name, blob in json.loads(path.read_bytes())["files"].items():
            assert blob == blob_of(right[name])
    for path in (root / "refs").iterdir():
        artifact = json.loads(path.read_bytes())["artifact"]
        assert (root / "manifests" / f"{artifact.partition(':')[2]}.json").exists(), "a ref to nothing"


def _chunks(data: bytes) -> str:
    parts = [data[at : at + CHUNK_BYTES] for at in range(0, len(data), CHUNK_BYTES)]
    return "".join(xxhash.xxh3_128_hexdigest(part) for part in parts)
