"""What the store knows of artifacts beside their bytes: manifests, bindings and what refs were resolved to.

Small files, each written whole and durably. A damaged one is as good as none: it is written again by the next stage.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import rfc8785

from prestage.cacher.digests import ArtifactId, BlobId, artifact_id, blob_id, hex_of
from prestage.cacher.errors import Corrupt, Misconfigured, NotFound, PrestageError
from prestage.cacher.manifest import Manifest, parse_manifest
from prestage.cacher.refs import HfRef, parse_ref
from prestage.cacher.store.disk import Disk, write_file
from prestage.cacher.store.layout import Layout

FORMAT = 1


class Patterns(Protocol):
    """Which files of a ref were wanted."""

    @property
    def include(self) -> tuple[str, ...]:
        """Only these."""
        ...

    @property
    def exclude(self) -> tuple[str, ...]:
        """Not these."""
        ...


@dataclass(frozen=True, slots=True)
class KnownRef:
    """What a ref was last resolved to."""

    ref: str
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    artifact: ArtifactId


class Artifacts:
    """Reads and writes the small files. Stateless but for the disk."""

    def __init__(self, layout: Layout, disk: Disk, now: Callable[[], float] = time.time) -> None:
        self._layout, self._disk, self._now = layout, disk, now
        self.on_change: Callable[[ArtifactId], None] = lambda _: None
        """Told of every manifest and binding that is written or removed, before and after."""

    def put_manifest(self, manifest: Manifest) -> ArtifactId:
        """Idempotent; a damaged file of that name is replaced."""
        raw, artifact = manifest.to_bytes(), manifest.artifact
        path = self._layout.manifest(artifact)
        if not path.exists() or path.read_bytes() != raw:
            with self._telling(artifact):
                write_file(self._disk, path, raw)
        return artifact

    @contextmanager
    def _telling(self, artifact: ArtifactId) -> Iterator[None]:
        """Also of a write that failed: nobody knows how far it came."""
        self.on_change(artifact)
        try:
            yield
        finally:
            self.on_change(artifact)

    def manifest(self, artifact: ArtifactId) -> Manifest:
        """Raises NotFound, or Corrupt when its bytes are not what its name says."""
        try:
            raw = self._layout.manifest(artifact).read_bytes()
        except FileNotFoundError as exc:
            raise NotFound(f"{artifact} is not in this store", hint="stage it first: prestage stage REF") from exc
        return parse_manifest(raw, artifact)

    def is_known(self, artifact: ArtifactId) -> bool:
        """There is a manifest of that name."""
        return self._layout.manifest(artifact).exists()

    def all(self) -> Iterator[ArtifactId]:
        """Every artifact with a manifest, whole or not."""
        for path in sorted(self._layout.manifests.glob("*.json")):
            try:
                yield artifact_id(f"sha256:{path.stem}")
            except Misconfigured:
                continue

    def binding(self, artifact: ArtifactId) -> dict[str, BlobId]:
        """Path -> blob, for the files known so far; damaged counts as unknown."""
        try:
            document = json.loads(self._layout.binding(artifact).read_bytes())
            if document["artifact"] != artifact:
                return {}
            return {str(path): blob_id(blob) for path, blob in document["files"].items()}
        except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError, RecursionError, PrestageError):
            return {}

    def bind(self, artifact: ArtifactId, files: Mapping[str, BlobId]) -> None:
        """Add what files turned out to be. First writer wins.

        Raises:
            Corrupt: a file was bound to another blob: the origin gave two contents for one version.
        """
        known = self.binding(artifact)
        for path, blob in files.items():
            if known.get(path, blob) != blob:
                raise Corrupt(
                    f"{path}: the origin gave {blob}, earlier {known[path]}, for one version",
                    hint="its version is no version; tell its owner",
                )
        if (merged := {**known, **files}) != known:
            document = {"format": FORMAT, "artifact": artifact, "files": dict(sorted(merged.items()))}
            with self._telling(artifact):
                write_file(self._disk, self._layout.binding(artifact), json.dumps(document).encode())

    def record_ref(self, name: str, patterns: Patterns, artifact: ArtifactId) -> None:
        """Remember what a ref stands for; the newest answer wins."""
        document = {
            "format": FORMAT,
            "ref": name,
            "include": list(patterns.include),
            "exclude": list(patterns.exclude),
            "artifact": artifact,
            "resolved_at": self._now(),
        }
        write_file(
            self._disk,
            self._layout.refs / f"{_ref_id(name, patterns.include, patterns.exclude)}.json",
            json.dumps(document).encode(),
        )

    def refs(self) -> Iterator[KnownRef]:
        """Every ref that is remembered; damaged files are passed over."""
        for path in sorted(self._layout.refs.glob("*.json")):
            if (known := _read_ref(path)) is not None:
                yield known

    def lookup(self, text: str, patterns: Patterns | None) -> ArtifactId:
        """The artifact that `text`, a ref or an artifact, names here.

        Raises:
            NotFound: nothing of that name was staged.
            Misconfigured: malformed; or staged with several patterns and none given.
        """
        if text.startswith("sha256:"):
            artifact = artifact_id(text)
            self.manifest(artifact)
            return artifact
        ref = parse_ref(text)
        if ref.pin is not None:
            self.manifest(ref.pin)
            return ref.pin
        include, exclude = (patterns.include, patterns.exclude) if patterns is not None else ((), ())
        exact = _read_ref(self._layout.refs / f"{_ref_id(ref.name, include, exclude)}.json")
        if exact is not None and (exact.ref, exact.include, exact.exclude) == (ref.name, include, exclude):
            return exact.artifact
        found = [known for known in self.refs() if known.ref == ref.name]
        if patterns is not None or not found:
            raise NotFound(f"{ref.name} is not staged here", hint="stage it first: prestage stage REF")
        if len({known.artifact for known in found}) > 1:
            listed = ", ".join(sorted({known.artifact for known in found}))
            raise Misconfigured(
                f"{ref.name} is staged with several patterns", hint=f"name one by --include/--exclude or by artifact: {listed}"
            )
        return found[0].artifact

    def revision_of(self, text: str, artifact: ArtifactId) -> str | None:
        """The branch or tag by which `text` names an artifact of a hub; for an artifact, the one it was staged by."""
        texts = [text] if not text.startswith("sha256:") else [known.ref for known in self.refs() if known.artifact == artifact]
        named = (ref.revision for ref in map(parse_ref, texts) if isinstance(ref, HfRef))
        return next(named, None)

    def forget(self, artifact: ArtifactId) -> None:
        """Remove refs, binding and manifest, in this order: a manifest that is left is found and finished again."""
        for path in self._layout.refs.glob("*.json"):
            if hex_of(artifact).encode() in path.read_bytes():
                self._disk.unlink(path)
        self._disk.sync_directory(self._layout.refs)
        with self._telling(artifact):
            self._disk.unlink(self._layout.binding(artifact))
            self._disk.unlink(self._layout.manifest(artifact))
            self._disk.sync_directory(self._layout.manifests)


def _read_ref(path: Path) -> KnownRef | None:
    """None where there is none, or a damaged one."""
    try:
        document = json.loads(path.read_bytes())
        include, exclude = tuple(map(str, document["include"])), tuple(map(str, document["exclude"]))
        return KnownRef(str(document["ref"]), include, exclude, artifact_id(document["artifact"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, PrestageError):
        return None


def _ref_id(name: str, include: Sequence[str], exclude: Sequence[str]) -> str:
    return hashlib.sha256(rfc8785.dumps([name, list(include), list(exclude)])).hexdigest()
