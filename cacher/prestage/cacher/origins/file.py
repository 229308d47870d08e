"""file://: one file, or a directory walked without following anything.

Refused, by name: symlinks, sockets, pipes, devices, files that cannot be read. The one exception is a Hugging Face cache,
whose snapshots consist of symlinks:

    <cache>/models--org--name/snapshots/<commit>/config.json -> ../../blobs/<etag>     allowed
    <cache>/models--org--name/blobs/<etag> -> <cache>/blobs/<2 hex>/<xet hash>         allowed (the shared store of hf_xet)

below such a snapshot a symlink is followed if its end is a regular file in one of these two `blobs` folders. `--exclude`
comes first: what it names is not looked at.

A file is pinned by size and mtime (ns); the engine checks both while it reads. Authority: `file:` and the directory, with its
own symlinks resolved.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from prestage.cacher.errors import Bug, Denied, Misconfigured, NotFound
from prestage.cacher.manifest import MAX_FILES, FileEntry, Manifest, manifest_of
from prestage.cacher.net.ports import ResponseHead
from prestage.cacher.origins.ports import FileRead, Next, Selection, Verdict
from prestage.cacher.origins.selection import select_paths
from prestage.cacher.refs import FileRef

_KINDS = {
    stat.S_IFLNK: "a symlink",
    stat.S_IFSOCK: "a socket",
    stat.S_IFIFO: "a pipe",
    stat.S_IFBLK: "a block device",
    stat.S_IFCHR: "a character device",
}


class FileOrigin:
    """See `origins.ports.Origin`. Reads metadata only; the engine reads the bytes."""

    def __init__(self, ref: FileRef) -> None:
        self._ref = ref
        named = Path(ref.path)
        try:
            self._is_directory = named.is_dir()
            # A link that the user named is followed; what lies below it is not.
            self._root = named.resolve(strict=True) if self._is_directory else named.parent.resolve(strict=True)
        except (OSError, RuntimeError) as exc:
            raise _unreadable(ref.path, exc) from exc
        self._blobs = _hub_blobs(self._root)

    def resolve(self, selection: Selection) -> Manifest:
        """List and pin; see `origins.ports.Origin.resolve`."""
        if self._is_directory:
            found = self._walk()
            paths = select_paths(found, selection)
        else:
            name = Path(self._ref.path).name
            paths = [name] if selection.allows(name) else []
        return manifest_of(f"file:{self._root}", "", [self._entry(path) for path in paths])

    def request(self, manifest: Manifest, file: FileEntry) -> FileRead:
        """See `origins.ports.Origin.request`."""
        return self.place(manifest, file)

    def place(self, manifest: Manifest, file: FileEntry) -> FileRead:
        """Where the file is read; its symlinks are checked again."""
        modified = file.modified or ""
        if not modified.isdigit():
            raise Misconfigured(f"{file.path} is not pinned by a time", hint="stage file:// refs from what this version resolved")
        return FileRead(str(self._real(file.path)), file.size_bytes, int(modified))

    def judge(self, file: FileEntry, head: ResponseHead, body: bytes) -> Verdict:
        """A local file has no answers."""
        bug = Bug(f"{file.path} of a local directory was judged by an HTTP answer ({head.status})", hint="report it")
        return Verdict(Next.FATAL, str(bug), error=bug)

    def refresh(self, file: FileEntry) -> None:
        """Nothing is cached: `request` looks at the file system every time."""
        return

    def _walk(self) -> list[str]:
        found = []
        for path in _files_below(self._root):
            found.append(path)
            if len(found) > MAX_FILES:
                raise Misconfigured(f"{self._root} holds more than {MAX_FILES} files", hint="name the model's own directory")
        if not found:
            raise NotFound(f"{self._root} is empty", hint="name the directory that holds the model's files")
        return found

    def _entry(self, path: str) -> FileEntry:
        real = self._real(path)
        try:
            status = real.stat()
            readable = os.access(real, os.R_OK)
        except OSError as exc:
            raise _unreadable(str(real), exc) from exc
        if not readable:
            raise Denied(f"{self._shown(path)} cannot be read by user {os.geteuid()}", hint="change its mode or its owner")
        return FileEntry(path, status.st_size, modified=str(status.st_mtime_ns))

    def _real(self, path: str) -> Path:
        """The regular file behind `path`.

        Raises:
            Misconfigured: something else, or a symlink out of what was named.
            NotFound, Denied: as the system says.
        """
        named = self._root / path
        try:
            kind = stat.S_IFMT(named.lstat().st_mode)
            real = named.resolve(strict=True)
            real_kind = stat.S_IFMT(real.stat().st_mode)
        except FileNotFoundError as exc:
            if named.is_symlink():
                raise Misconfigured(f"{self._shown(path)} is a symlink to nowhere", hint="repair or --exclude it") from exc
            raise _unreadable(str(named), exc) from exc
        except (OSError, ValueError, RuntimeError) as exc:
            # Python 3.11 and 3.12 tell a loop of links by a RuntimeError.
            raise _unreadable(str(named), exc) from exc
        if real != named and not any(real.is_relative_to(blobs) for blobs in self._blobs):
            raise Misconfigured(
                f"{self._shown(path)} is a symlink, which is followed only inside a Hugging Face cache",
                hint="put the file itself there, or --exclude it",
            )
        if real_kind != stat.S_IFREG:
            raise Misconfigured(
                f"{self._shown(path)} is {_KINDS.get(kind, 'no regular file')}",
                hint="only regular files can be staged: --exclude it",
            )
        return real

    def _shown(self, path: str) -> str:
        return repr(f"{self._root}/{path}")


def _files_below(root: Path) -> Iterator[str]:
    """Everything that is not a directory, symlinks included, in no order."""
    waiting = [""]
    while waiting:
        prefix = waiting.pop()
        try:
            with os.scandir(root / prefix) as entries:
                listed = list(entries)
        except OSError as exc:
            raise _unreadable(str(root / prefix), exc) from exc
        for entry in listed:
            if entry.is_dir(follow_symlinks=False):
                waiting.append(f"{prefix}{entry.name}/")
            else:
                yield prefix + entry.name


def _hub_blobs(root: Path) -> tuple[Path, ...]:
    """The `blobs` folders that a snapshot's links may end in; none outside a Hugging Face cache."""
    for snapshots in (root, *root.parents):
        repository = snapshots.parent
        if snapshots.name == "snapshots" and repository.name.startswith(("models--", "datasets--", "spaces--")):
            # The commit's own folder at least: `snapshots` itself would mix revisions.
            return (repository / "blobs", repository.parent / "blobs") if snapshots != root else ()
    return ()


def _unreadable(path: str, exc: Exception) -> NotFound | Denied | Misconfigured:
    if isinstance(exc, (FileNotFoundError, NotADirectoryError)):
        return NotFound(f"{path!r} does not exist", hint="check the path; file:// takes an absolute one")
    if isinstance(exc, PermissionError):
        return Denied(f"{path!r} cannot be read by user {os.geteuid()}", hint="change its mode or its owner")
    cause = exc.strerror if isinstance(exc, OSError) else str(exc)
    return Misconfigured(f"{path!r} cannot be read: {cause}", hint="check the path")
