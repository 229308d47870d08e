"""Power cuts: the calls that change the disk are recorded, and what any cut could have left is built and opened.

The model is meaner than any journaling file system. Without an fsync of its file, each write may be lost, be there, be torn
at a sector, or have grown the file by zeros. Without an fsync of its directory, each change of a name may be lost or be there,
one by one and out of order; a rename between two directories may have made the new name and kept the old. A rename in one
directory and an exchange are atomic, as POSIX has it. Modes are taken to be durable at once: no invariant hangs on them alone.

    tree       what was durable when the recording began: directories {name: inode}, files {inode: bytes}, symlinks {inode: text}
    effects    [(what it changes, how it is made durable)], in order
    cut        a prefix of the effects; those that were synced are there, of the others a chosen part

Most cuts leave what another one left: with little unsynced, the chosen parts coincide. `Cut.key` says so.
"""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path

from prestage.cacher.store import holds
from prestage.cacher.store.disk import Disk
from stores import oracle

SECTOR_BYTES = 512
NOT_RECORDED = ("index.db", "index.db-journal", "owner", "gate")
"""What the store changes beside the seam: caches and locks, absent after a cut."""

_AT_ONCE = -1
"""Stands for an inode that is synced after each change."""


@contextmanager
def another_boot(folder: Path) -> Iterator[None]:
    """What comes after a power cut."""
    boot = folder / "boot_id"
    boot.write_text("another\n")
    before = holds.BOOT
    holds.BOOT = oracle.BOOT = boot
    holds.boot_id.cache_clear()
    try:
        yield
    finally:
        holds.BOOT = oracle.BOOT = before
        holds.boot_id.cache_clear()
        boot.unlink()


@dataclass(slots=True)
class Tree:
    """A file system: inode -> entries, or bytes and mode."""

    folders: dict[int, dict[str, int]] = field(default_factory=lambda: {0: {}})
    files: dict[int, bytearray] = field(default_factory=dict)
    symlinks: dict[int, str] = field(default_factory=dict)
    modes: dict[int, int] = field(default_factory=dict)

    @classmethod
    def read(cls, root: Path) -> Tree:
        """What lies below `root`; hard links stay hard links."""
        tree = cls()
        numbers: dict[tuple[int, int], int] = {}
        where = {root: 0}
        for path in sorted(root.rglob("*")):
            if path.name in NOT_RECORDED:
                continue
            status = path.lstat()
            number = numbers.setdefault((status.st_dev, status.st_ino), len(numbers) + 1)
            tree.folders[where[path.parent]][path.name] = number
            tree.modes[number] = status.st_mode & 0o7777
            if path.is_symlink():
                tree.symlinks[number] = str(path.readlink())
            elif path.is_dir():
                where[path] = number
                tree.folders[number] = {}
            elif number not in tree.files:
                tree.files[number] = bytearray(path.read_bytes())
        return tree

    def fingerprint(self) -> bytes:
        """Equal for trees that `write` makes equal."""
        hasher = hashlib.blake2b(digest_size=16)
        self._hash_folder(0, hasher.update)
        return hasher.digest()

    def _hash_folder(self, number: int, update: Callable[[bytes | bytearray], None]) -> None:
        entries = self.folders[number]
        update(b"%d entries, mode %o\n" % (len(entries), self.modes.get(number, 0o700)))
        for name, inode in sorted(entries.items()):
            update(b"%d %r " % (inode, name.encode()))
            if inode in self.symlinks:
                update(b"-> %r\n" % self.symlinks[inode].encode())
            elif inode in self.folders:
                self._hash_folder(inode, update)
            else:
                data = self.files.get(inode, b"")
                update(b"%d bytes, mode %o\n" % (len(data), self.modes.get(inode, 0o600)))
                update(data)

    def write(self, root: Path) -> None:
        """Make it real."""
        self._write_folder(0, root, {})

    def _write_folder(self, number: int, path: Path, done: dict[int, Path]) -> None:
        path.mkdir(mode=0o700)
        for name, inode in self.folders[number].items():
            target = path / name
            if inode in self.symlinks:
                target.symlink_to(self.symlinks[inode])
            elif inode in self.folders:
                self._write_folder(inode, target, done)
            elif inode in done:
                os.link(done[inode], target)
            else:
                target.write_bytes(self.files.get(inode, b""))
                target.chmod(self.modes.get(inode, 0o600))
                done[inode] = target
        path.chmod(self.modes.get(number, 0o700))


@dataclass(frozen=True, slots=True)
class Effect:
    """One change that a cut may take back until one of `synced_by` (inodes) is synced."""

    apply: Callable[[Tree], None]
    torn: Callable[[Tree, random.Random], None] | None
    synced_by: int


@dataclass(frozen=True, slots=True)
class Sync:
    """Everything of this inode that came before is durable."""

    inode: int


@dataclass(frozen=True, slots=True)
class Ack:
    """The store said that something was done."""

    what: str


class RecordingDisk(Disk):
    """Does what it is asked to, and writes it down. `without`: numbers of syncs that are left out of the record."""

    def __init__(self, root: Path, *, without: Callable[[int, str], bool] = lambda number, kind: False) -> None:
        self._root, self._without = root, without
        self.tree = Tree.read(root)
        self._live = deepcopy(self.tree)
        """Names as the process sees them."""
        self._files: dict[int, int] = {}
        """Descriptor -> inode."""
        self._next = 1_000_000
        self.log: list[Effect | Sync | Ack] = []
        self.syncs = 0

    def ack(self, what: str) -> None:
        """To be called by the test."""
        self.log.append(Ack(what))

    def _find(self, path: Path) -> tuple[int, str]:
        folder = 0
        for part in path.relative_to(self._root).parts[:-1]:
            folder = self._live.folders[folder][part]
        return folder, path.name

    def _inode(self, path: Path) -> int:
        if path == self._root:
            return 0
        folder, name = self._find(path)
        return self._live.folders[folder][name]

    def _effect(
        self, apply: Callable[[Tree], None], synced_by: int, torn: Callable[[Tree, random.Random], None] | None = None
    ) -> None:
        apply(self._live)
        self.log.append(Effect(apply, torn, synced_by))

    def _sync(self, inode: int, kind: str) -> None:
        if not self._without(self.syncs, kind):
            self.log.append(Sync(inode))
        self.syncs += 1

    def _is_outside(self, path: Path) -> bool:
        return not path.is_relative_to(self._root)

    def create(self, path: Path, *, direct: bool = False) -> int:
        is_new = not path.exists()
        fd = super().create(path, direct=direct)
        folder, name = self._find(path)
        if is_new:
            self._next += 1
            inode = self._next
            self._effect(lambda tree: _add(tree, folder, name, inode), folder)
        self._files[fd] = self._live.folders[folder][name]
        return fd

    def open(self, path: Path, *, direct: bool = False) -> int:
        fd = super().open(path, direct=direct)
        self._files[fd] = self._inode(path)
        return fd

    def clone(self, fd: int, source_fd: int, path: Path) -> None:
        super().clone(fd, source_fd, path)
        inode, source = self._files[fd], self._files[source_fd]
        self._effect(lambda tree: _write(tree, inode, bytes(tree.files[source]), 0), inode)

    def write(self, fd: int, data: bytes | memoryview, offset: int, path: Path, *, block: int = 1) -> None:
        super().write(fd, data, offset, path, block=block)
        inode, copy = self._files[fd], bytes(data)
        self._effect(
            lambda tree: _write(tree, inode, copy, offset),
            inode,
            lambda tree, chance: _write_torn(tree, inode, copy, offset=offset, chance=chance),
        )

    def allocate(self, fd: int, size_bytes: int, path: Path) -> None:
        super().allocate(fd, size_bytes, path)
        inode = self._files[fd]
        self._effect(lambda tree: _grow(tree, inode, size_bytes), inode)

    def truncate(self, fd: int, size_bytes: int, path: Path) -> None:
        super().truncate(fd, size_bytes, path)
        inode = self._files[fd]
        self._effect(lambda tree: _resize(tree, inode, size_bytes), inode)

    def seal(self, fd: int, path: Path) -> None:
        super().seal(fd, path)
        self._set_mode(self._files[fd], 0o444)

    def set_mode(self, path: Path, mode: int) -> None:
        super().set_mode(path, mode)
        self._set_mode(self._inode(path), mode)

    def _set_mode(self, inode: int, mode: int) -> None:
        self._effect(lambda tree: tree.modes.__setitem__(inode, mode), _AT_ONCE)
        self.log.append(Sync(_AT_ONCE))

    def sync(self, fd: int, path: Path) -> None:
        super().sync(fd, path)
        self._sync(self._files[fd], "file")

    def sync_data(self, fd: int, path: Path) -> None:
        super().sync_data(fd, path)
        self._sync(self._files[fd], "data")

    def sync_directory(self, path: Path) -> None:
        super().sync_directory(path)
        if not self._is_outside(path):
            self._sync(self._inode(path), "directory")

    def sync_many(self, paths: Sequence[Path]) -> None:
        super().sync_many(paths)
        for path in paths:
            self._sync(self._inode(path), "directory" if path.is_dir() else "file")

    def make_directory(self, path: Path, mode: int = 0o700) -> None:
        is_new = not path.exists()
        super().make_directory(path, mode)
        if not is_new:
            return
        folder, name = self._find(path)
        self._next += 1
        inode = self._next
        self._effect(lambda tree: _add_folder(tree, folder, name, inode), folder)

    def rename(self, source: Path, target: Path) -> None:
        super().rename(source, target)
        from_folder, from_name = self._find(source)
        to_folder, to_name = self._find(target)
        inode = self._live.folders[from_folder][from_name]
        if from_folder == to_folder:
            self._effect(lambda tree: _rename(tree, from_folder, from_name, to_name), from_folder)
            return
        self._effect(lambda tree: _add(tree, to_folder, to_name, inode), to_folder)
        self._effect(lambda tree: _remove_moved(tree, (from_folder, from_name), (to_folder, to_name), inode), from_folder)

    def exchange(self, one: Path, other: Path) -> None:
        super().exchange(one, other)
        folder, name = self._find(one)
        assert self._find(other)[0] == folder, "the model knows exchanges in one directory"
        self._effect(lambda tree: _exchange(tree, folder, name, other.name), folder)

    def link(self, source: Path, target: Path) -> None:
        super().link(source, target)
        inode = self._inode(source)
        folder, name = self._find(target)
        self._effect(lambda tree: _add(tree, folder, name, inode), folder)

    def symlink(self, target: str, path: Path) -> None:
        super().symlink(target, path)
        folder, name = self._find(path)
        self._next += 1
        inode = self._next
        self._effect(lambda tree: _add_symlink(tree, folder, name, target=target, inode=inode), folder)

    def unlink(self, path: Path) -> None:
        was = path.exists() or path.is_symlink()
        super().unlink(path)
        if was:
            folder, name = self._find(path)
            self._effect(lambda tree: _remove(tree, folder, name), folder)

    def remove_directory(self, path: Path) -> None:
        was = path.exists()
        super().remove_directory(path)
        if was:
            folder, name = self._find(path)
            self._effect(lambda tree: _remove_folder(tree, folder, name), folder)


def _add(tree: Tree, folder: int, name: str, inode: int) -> None:
    if folder in tree.folders:
        tree.folders[folder][name] = inode
    if inode not in tree.folders and inode not in tree.symlinks:
        tree.files.setdefault(inode, bytearray())


def _add_symlink(tree: Tree, folder: int, name: str, *, target: str, inode: int) -> None:
    """Its target is in its inode, which goes to disk with the directory that names it."""
    tree.symlinks[inode] = target
    if folder in tree.folders:
        tree.folders[folder][name] = inode


def _add_folder(tree: Tree, folder: int, name: str, inode: int) -> None:
    tree.folders.setdefault(inode, {})
    if folder in tree.folders:
        tree.folders[folder][name] = inode


def _remove(tree: Tree, folder: int, name: str) -> None:
    tree.folders.get(folder, {}).pop(name, None)


def _remove_moved(tree: Tree, source: tuple[int, str], target: tuple[int, str], inode: int) -> None:
    """The old name of a rename goes only once the new one is there."""
    if tree.folders.get(target[0], {}).get(target[1]) == inode:
        _remove(tree, *source)


def _remove_folder(tree: Tree, folder: int, name: str) -> None:
    """It was empty: where that it is gone is durable, what was unlinked in it is gone with it, synced or not."""
    tree.folders.get(folder, {}).pop(name, None)


def _rename(tree: Tree, folder: int, source: str, target: str) -> None:
    entries = tree.folders.get(folder, {})
    if source in entries:
        entries[target] = entries.pop(source)


def _exchange(tree: Tree, folder: int, one: str, other: str) -> None:
    entries = tree.folders[folder]
    if one in entries and other in entries:
        entries[one], entries[other] = entries[other], entries[one]


def _grow(tree: Tree, inode: int, size_bytes: int) -> None:
    file = tree.files.setdefault(inode, bytearray())
    file.extend(bytes(max(0, size_bytes - len(file))))


def _resize(tree: Tree, inode: int, size_bytes: int) -> None:
    _grow(tree, inode, size_bytes)
    del tree.files[inode][size_bytes:]


def _write(tree: Tree, inode: int, data: bytes, offset: int) -> None:
    _grow(tree, inode, offset + len(data))
    tree.files[inode][offset : offset + len(data)] = data


def _write_torn(tree: Tree, inode: int, data: bytes, *, offset: int, chance: random.Random) -> None:
    """The file has its new length; of the bytes only the first sectors are there, or none."""
    _grow(tree, inode, offset + len(data))
    sectors = range(0, len(data), SECTOR_BYTES)
    _write(tree, inode, data[: chance.choice(sectors)] if data else b"", offset)


@dataclass(frozen=True, slots=True)
class Cut:
    """A file system that a power cut could have left."""

    tree: Tree
    acks: tuple[str, ...]
    point: str

    @property
    def key(self) -> tuple[bytes, tuple[str, ...]]:
        """Equal for cuts that nobody could tell apart: the same tree, the same acknowledged."""
        return self.tree.fingerprint(), self.acks


def distinct(states: Iterable[Cut]) -> Iterator[Cut]:
    """Without those that are as an earlier one was."""
    seen = set[tuple[bytes, tuple[str, ...]]]()
    for cut in states:
        if (key := cut.key) not in seen:
            seen.add(key)
            yield cut


def cuts(disk: RecordingDisk, *, samples: int, seed: int, every: int = 1) -> Iterator[Cut]:
    """For every `every`-th prefix of what was recorded, the longest first (what was acknowledged shows there): nothing unsynced,
    all of it, and `samples` parts of it.
    """
    for end in range(len(disk.log), -1, -every):
        yield from _cuts_at(disk, end, samples=samples, seed=seed)
    if len(disk.log) % every:
        yield from _cuts_at(disk, 0, samples=samples, seed=seed)


def _fates(pending: Sequence[int], chance: random.Random, number: int) -> dict[int, str]:
    """What becomes of each unsynced change: by lot, or the early ones kept, or (out of order) only the late ones."""
    if number % 3 == 0:
        return {at: chance.choice(("lost", "kept", "torn")) for at in pending}
    border = chance.choice(pending)
    early, late = ("kept", "lost") if number % 3 == 1 else ("lost", "kept")
    return {at: early if at <= border else late for at in pending}


def _cuts_at(disk: RecordingDisk, end: int, *, samples: int, seed: int) -> Iterator[Cut]:
    log = disk.log[:end]
    acks = tuple(entry.what for entry in log if isinstance(entry, Ack))
    last_sync: dict[int, int] = {}
    for at, entry in enumerate(log):
        if isinstance(entry, Sync):
            last_sync[entry.inode] = at
    effects = [(at, entry) for at, entry in enumerate(log) if isinstance(entry, Effect)]
    pending = [at for at, entry in effects if last_sync.get(entry.synced_by, -1) < at]
    unsynced = frozenset(pending)
    chosen: list[tuple[str, Callable[[int], str]]] = [("none", lambda at: "lost"), ("all", lambda at: "kept")]
    for number in range(samples if pending else 0):
        chance = random.Random(f"{seed} {end} {number}")
        chosen.append((f"sample {number}", _fates(pending, chance, number).__getitem__))
    for name, fate in chosen:
        tree, chance = deepcopy(disk.tree), random.Random(f"{seed} {end} {name}")
        for at, effect in effects:
            how = fate(at) if at in unsynced else "kept"
            if how == "torn" and effect.torn is not None:
                effect.torn(tree, chance)
            elif how != "lost":
                effect.apply(tree)
        yield Cut(tree, acks, f"after {end} of {len(disk.log)} calls, {name} of {len(pending)} unsynced changes kept")
