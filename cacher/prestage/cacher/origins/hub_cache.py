"""A Hugging Face cache on this machine as an origin: the manifest that the hub would give, made offline.

    <cache>/models--org--name/refs/<revision>           a file that holds the commit
                              snapshots/<commit>/path   a link into blobs/
                              blobs/<etag>              64 digits: SHA-256 (LFS), 40: Git's SHA-1; or a link to <cache>/blobs/
                              trees/<commit>.json       the hub's listing: {"format_version": 1, "files": {path: {…}}}

With the listing, and all that a stage would take: the artifact is that of `stage hf://org/name@revision`. With a part of it, or
without the listing: the artifact is that of a stage with `--include` of just the files that are here; their names state their
digests. What has neither listing nor such names is not known well enough (`NotKnown`). The digests are claims of the cache:
checked, like an origin's.
"""

from __future__ import annotations

import glob
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from prestage.cacher.digests import Digest
from prestage.cacher.errors import Bug, Corrupt, Misconfigured, NotFound, PrestageError
from prestage.cacher.manifest import FileEntry, Manifest, manifest_of
from prestage.cacher.net.ports import ResponseHead
from prestage.cacher.origins.file import FileOrigin
from prestage.cacher.origins.hub_answers import COMMIT
from prestage.cacher.origins.ports import FileRead, Next, Selection, Verdict
from prestage.cacher.origins.selection import select
from prestage.cacher.refs import FileRef, HfRef, parse_ref

TREE_FORMAT = 1
_SHA256 = re.compile(r"[0-9a-f]{64}")
_PREFIX = "models--"


class NotKnown(Exception):
    """The cache does not know enough of this snapshot to say what the hub calls it."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One revision in a cache."""

    repository: Path
    commit: str
    ref: HfRef

    @property
    def folder(self) -> Path:
        """Its files."""
        return self.repository / "snapshots" / self.commit


def is_hub_cache(path: Path) -> bool:
    """`path` is a model repository in a Hugging Face cache, or a snapshot of one."""
    return _repository(path) is not None


def _repository(path: Path) -> Path | None:
    for folder in (path, path.parent.parent):
        if (
            folder.name.startswith(_PREFIX)
            and (folder / "snapshots").is_dir()
            and (folder == path or path.parent.name == "snapshots")
        ):
            return folder
    return None


def find_snapshot(path: Path, ref: HfRef | None) -> Snapshot:
    """The revision that is meant: by `ref`, by `path` (a snapshot's folder), else main, else the only one.

    Raises:
        NotKnown: the repository's name is no `org/name`.
        NotFound: no such revision in this cache.
        Misconfigured: several and none named, or `ref` is of another repository.
    """
    repository = _repository(path)
    if repository is None:
        raise NotKnown(f"{path} is no model repository of a Hugging Face cache")
    name = repository.name.removeprefix(_PREFIX).replace("--", "/")
    try:
        plain = parse_ref(f"hf://{name}")
    except PrestageError as exc:
        raise NotKnown(f"{name!r} is no hf:// name") from exc
    assert isinstance(plain, HfRef)
    if ref is not None and ref.repo != name:
        raise Misconfigured(f"{path} holds {plain.repo}, not {ref.repo}", hint="name a ref of that repository")
    revision, commit = _revision(repository, path, ref)
    found = Snapshot(repository, commit, HfRef(name, revision, ref.pin if ref is not None else None))
    if not found.folder.is_dir():
        raise NotFound(f"{repository} has no snapshot of {revision}", hint="download it there first, or name another --ref")
    return found


def _revision(repository: Path, path: Path, ref: HfRef | None) -> tuple[str, str]:
    refs = _refs(repository)
    if ref is not None:
        if COMMIT.fullmatch(ref.revision):
            return ref.revision, ref.revision
        if ref.revision not in refs:
            known = ", ".join(sorted(refs)) or "none"
            raise NotFound(f"{repository} knows no revision {ref.revision!r}", hint=f"it knows: {known}")
        return ref.revision, refs[ref.revision]
    if path != repository:
        names = sorted(name for name, commit in refs.items() if commit == path.name)
        return ("main" if "main" in names else names[0] if names else path.name), path.name
    if "main" in refs:
        return "main", refs["main"]
    snapshots = sorted(entry.name for entry in (repository / "snapshots").iterdir() if COMMIT.fullmatch(entry.name))
    choices = sorted(refs.items()) or [(commit, commit) for commit in snapshots]
    if len(choices) == 1:
        return choices[0]
    if not choices:
        raise NotFound(f"{repository} holds no snapshot", hint="name the folder that holds the files")
    listed = ", ".join(name for name, _ in choices)
    raise Misconfigured(f"{repository} holds several revisions", hint=f"name one by --ref hf://org/name@REVISION: {listed}")


def _refs(repository: Path) -> dict[str, str]:
    found = {}
    for path in sorted((repository / "refs").rglob("*")):
        if path.is_file() and path.stat().st_size <= 200:
            commit = path.read_text(errors="replace").strip()
            if COMMIT.fullmatch(commit):
                found[path.relative_to(repository / "refs").as_posix()] = commit
    return found


def tree_files(raw: bytes) -> list[FileEntry]:
    """The files of a cached listing, as the hub's own listing gives them.

    Raises:
        NotKnown: another format, or damaged.
    """
    try:
        document = json.loads(raw)
        if document["format_version"] != TREE_FORMAT:
            raise NotKnown("its listing is of another format")
        return [_listed(path, item) for path, item in document["files"].items()]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
        raise NotKnown("its listing is damaged") from exc


def _listed(path: str, item: Mapping[str, object]) -> FileEntry:
    size, blob, sha256 = item["size"], item["blob_id"], item.get("lfs_sha256")
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise TypeError("size")
    if sha256 is None:
        if not isinstance(blob, str) or not COMMIT.fullmatch(blob):
            raise TypeError("blob_id")
        return FileEntry(path, size, digest=Digest(f"git-sha1:{blob}"))
    if not isinstance(sha256, str) or not _SHA256.fullmatch(sha256) or item.get("lfs_size", size) != size:
        raise TypeError("lfs")
    return FileEntry(path, size, digest=Digest(f"sha256:{sha256}"))


def linked_by_others(snapshot: Path) -> frozenset[str]:
    """Names of the blobs that the other snapshots beside this one link to; none if it is no snapshot."""
    if snapshot.parent.name != "snapshots" or not is_hub_cache(snapshot):
        return frozenset()
    others = (folder for folder in snapshot.parent.iterdir() if folder != snapshot)
    return frozenset(path.readlink().name for folder in others for path in folder.rglob("*") if path.is_symlink())


class HubCacheOrigin:
    """See `origins.ports.LocalOrigin`. `endpoint`: the hub that the cache is of."""

    def __init__(self, snapshot: Snapshot, endpoint: str) -> None:
        self._snapshot = snapshot
        self._authority = f"hf:{endpoint}/{snapshot.ref.repo}"
        self._files = FileOrigin(FileRef(str(snapshot.folder)))
        self._reads: dict[str, FileRead] = {}
        self._needed = linked_by_others(snapshot.folder)
        here = self._files.resolve(Selection())
        for file in here.files:
            self._reads[file.path] = self._files.place(here, file)
        self._entries, self.selection = self._wanted(self._tree())

    def _wanted(self, tree: Sequence[FileEntry] | None) -> tuple[list[FileEntry], Selection]:
        """What is adopted, and the patterns by which a stage would take just that."""
        listed = {file.path: file for file in tree or ()}
        whole = select(listed.values(), Selection())
        if whole and all(file.path in self._reads for file in whole):
            return whole, Selection()
        entries = [listed.get(path) or self._by_its_name(path) for path in self._reads]
        return entries, Selection(include=tuple(sorted(glob.escape(path) for path in self._reads)))

    @property
    def is_whole(self) -> bool:
        """All that a stage of this revision would take is here."""
        return not self.selection.include

    def resolve(self, selection: Selection) -> Manifest:
        """See `origins.ports.Origin.resolve`; `selection` must be this origin's own."""
        if selection != self.selection:
            raise Bug("a cache is adopted with other patterns than it was looked at with")
        for file in self._entries:
            if (size := self._reads[file.path].size_bytes) != file.size_bytes:
                raise Corrupt(
                    f"{self._snapshot.folder / file.path} has {size} bytes, the hub lists {file.size_bytes}",
                    hint="remove it there and download it again",
                )
        return manifest_of(self._authority, "", self._entries, revision=self._snapshot.commit)

    def place(self, manifest: Manifest, file: FileEntry) -> FileRead:
        """See `origins.ports.LocalOrigin.place`."""
        return self._reads[file.path]

    def request(self, manifest: Manifest, file: FileEntry) -> FileRead:
        """See `origins.ports.Origin.request`."""
        return self.place(manifest, file)

    def judge(self, file: FileEntry, head: ResponseHead, body: bytes) -> Verdict:
        """A local file has no answers."""
        return Verdict(Next.FATAL, f"{file.path} of a local cache was judged by an HTTP answer")

    def refresh(self, file: FileEntry) -> None:
        """Nothing is cached."""

    def names(self, path: str) -> list[Path]:
        """What goes when the file is given away: its link and its blob; empty when something else needs the blob too."""
        blob = Path(self._reads[path].path)
        if blob.parent != (self._snapshot.repository / "blobs").resolve() or blob.name in self._needed:
            return []
        return [blob, self._snapshot.folder / path]

    def _tree(self) -> list[FileEntry] | None:
        path = self._snapshot.repository / "trees" / f"{self._snapshot.commit}.json"
        try:
            return tree_files(path.read_bytes())
        except (OSError, NotKnown):
            return None

    def _by_its_name(self, path: str) -> FileEntry:
        """A link's target states the digest."""
        link = self._snapshot.folder / path
        name = link.readlink().name if link.is_symlink() else ""
        size = self._reads[path].size_bytes
        if _SHA256.fullmatch(name):
            return FileEntry(path, size, digest=Digest(f"sha256:{name}"))
        if COMMIT.fullmatch(name):
            return FileEntry(path, size, digest=Digest(f"git-sha1:{name}"))
        raise NotKnown(f"nothing states the digest of {path}")
