"""How an archive is written: a tar that any tar can list and unpack, with all that is needed to check it. Pure; docs/format.md.

    prestage/archive.json            {"format": 1, "artifact": "sha256:…", "ref": "hf://…", "include": [], "exclude": []}
    prestage/manifest.json           its SHA-256 is the artifact
    prestage/binding.json            which blob each path is
    prestage/<hex>.meta              piece digests and chunk sums of the blob that follows
    prestage/<hex>                   its bytes
    …                                a pair for each distinct blob, in the order in which the manifest's files name them
    two blocks of zeros

Ustar headers; one PAX header before a member of 8 GiB or more states its size. No times, owners or modes that differ: the same
artifact gives the same file. A reader takes just this: any other name, kind, order or header is damage.
"""

from __future__ import annotations

import json
import re
import tarfile
from dataclasses import dataclass

from prestage.cacher.digests import ArtifactId, BlobId, artifact_id, blob_id
from prestage.cacher.errors import Corrupt, Misconfigured, PrestageError
from prestage.cacher.manifest import Manifest

FORMAT = 1
BLOCK_BYTES = 512
END = bytes(2 * BLOCK_BYTES)
FOLDER = "prestage/"
SMALL_BYTES_MAX = 64 << 20
"""Of a member that is read into memory: a manifest of 100,000 files has 30 MB, the meta of a 10 TB file has 90."""
_META_BYTES_MAX = 256 << 20
_PAX_BYTES_MAX = 1024
_USTAR_SIZE_MAX = 8 << 30
_PAX = re.compile(rb"([0-9]{1,3}) size=([0-9]{1,16})\n")
_HINT = "get it again, and compare its SHA-256 with its giver's"


@dataclass(frozen=True, slots=True)
class Label:
    """What an archive says it holds."""

    artifact: ArtifactId
    ref: str
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def to_bytes(self) -> bytes:
        """archive.json."""
        document = {
            "format": FORMAT,
            "artifact": self.artifact,
            "ref": self.ref,
            "include": list(self.include),
            "exclude": list(self.exclude),
        }
        return json.dumps(document, indent=1).encode() + b"\n"


def header(name: str, size_bytes: int) -> bytes:
    """What stands before a member's bytes."""
    info = tarfile.TarInfo(FOLDER + name)
    info.size, info.mode = size_bytes, 0o444
    # The size in a ustar header ends at 8 GiB; tarfile writes the PAX header itself then.
    return info.tobuf(tarfile.PAX_FORMAT)


def padding(size_bytes: int) -> bytes:
    """What stands behind a member's bytes."""
    return bytes(-size_bytes % BLOCK_BYTES)


def damaged(why: str, at: int) -> Corrupt:
    """The error of an archive that is not what it should be."""
    return Corrupt(f"the archive is damaged at byte {at}: {why}", hint=_HINT)


def member(block: bytes, at: int) -> tuple[str, int, bool]:
    """Name, size and whether it is a PAX header, from one header block.

    Raises:
        Corrupt: not a header that we write.
    """
    try:
        info = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
    except (tarfile.HeaderError, ValueError) as exc:
        raise damaged("no tar header" if at else "no tar file", at) from exc
    if info.type == tarfile.XHDTYPE and 0 < info.size <= _PAX_BYTES_MAX:
        return "", info.size, True
    if info.type != tarfile.REGTYPE or not info.name.startswith(FOLDER) or info.linkname or info.size < 0:
        raise damaged(f"{info.name[:80]!r} is not what belongs here", at)
    return info.name.removeprefix(FOLDER), info.size, False


def pax_size(raw: bytes, at: int) -> int:
    """The size that a PAX header states; nothing else may stand there.

    Raises:
        Corrupt: something else.
    """
    found = _PAX.fullmatch(raw)
    if found is None or int(found.group(1)) != len(raw) or int(found.group(2)) < _USTAR_SIZE_MAX:
        raise damaged("a PAX header that states no size", at)
    return int(found.group(2))


def small_limit(name: str) -> int:
    """Most bytes that the small member `name` may have."""
    return _META_BYTES_MAX if name.endswith(".meta") else SMALL_BYTES_MAX


def parse_label(raw: bytes, at: int) -> Label:
    """Read archive.json.

    Raises:
        Corrupt: not that.
        Misconfigured: of a newer version.
    """
    try:
        document = json.loads(raw)
        if document["format"] != FORMAT:
            raise Misconfigured(
                f"the archive's format {document['format']!r} is unknown to this version", hint="upgrade prestage"
            )
        include, exclude = (tuple(_text(item) for item in document[name]) for name in ("include", "exclude"))
        return Label(artifact_id(_text(document["artifact"])), _text(document["ref"]), include, exclude)
    except (ValueError, KeyError, TypeError, RecursionError) as exc:
        raise damaged("archive.json is not readable", at) from exc


def render_binding(artifact: ArtifactId, binding: dict[str, BlobId]) -> bytes:
    """binding.json: as it lies in a store."""
    return json.dumps({"format": 1, "artifact": artifact, "files": dict(sorted(binding.items()))}).encode()


def parse_binding(raw: bytes, manifest: Manifest, at: int) -> dict[str, BlobId]:
    """Read binding.json: one blob for each file of the manifest.

    Raises:
        Corrupt: not that.
    """
    try:
        document = json.loads(raw)
        files = {_text(path): blob_id(_text(blob)) for path, blob in document["files"].items()}
        is_right = document["artifact"] == manifest.artifact and files.keys() == {file.path for file in manifest.files}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, PrestageError) as exc:
        raise damaged("binding.json is not readable", at) from exc
    if not is_right:
        raise damaged("binding.json is of another artifact", at)
    return files


def in_order(manifest: Manifest, binding: dict[str, BlobId]) -> list[BlobId]:
    """The distinct blobs, in the order in which they stand in the archive."""
    return list(dict.fromkeys(binding[file.path] for file in manifest.files))


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("not text")
    return value
