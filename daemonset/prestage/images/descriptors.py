"""What a registry says an image is made of: index, manifest, config. Parsed from bytes that a digest vouched for. Pure.

    index     -> the manifest of this platform          (OCI image index, Docker manifest list)
    manifest  -> config and layers, lowest first        (OCI image manifest, Docker schema 2)
    config    -> diff IDs, one for each layer           the digests of what the layers unpack to

Refused: schema 1, foreign layers (their bytes lie elsewhere), encrypted layers, more than 127 layers (overlayfs stacks no more),
anything that is no image (Helm charts, models as artifacts).
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from prestage.cacher.errors import Corrupt, Misconfigured, NotFound
from prestage.images.names import OciDigest, parse_digest

MAX_DOCUMENT_BYTES = 4 << 20
"""Of an index or a manifest; the bound that registries keep (distribution-spec, "Pushing manifests")."""
MAX_CONFIG_BYTES = 16 << 20
MAX_LAYERS = 127
MAX_LAYER_BYTES = 1 << 42
_INDEXES = ("application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json")
_MANIFESTS = ("application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json")
ACCEPT = ", ".join((*_INDEXES, *_MANIFESTS))
_CONFIGS = ("application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json")
LAYERS = frozenset(
    {
        "application/vnd.oci.image.layer.v1.tar",
        "application/vnd.oci.image.layer.v1.tar+gzip",
        "application/vnd.oci.image.layer.v1.tar+zstd",
        "application/vnd.docker.image.rootfs.diff.tar",
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
        "application/vnd.docker.image.rootfs.diff.tar.zstd",
    }
)
_MACHINES = {"x86_64": ("amd64", ""), "aarch64": ("arm64", "v8"), "armv7l": ("arm", "v7"), "ppc64le": ("ppc64le", "")}


@dataclass(frozen=True, slots=True)
class Descriptor:
    """One blob as another document names it."""

    media_type: str
    digest: OciDigest
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Platform:
    """What a node runs."""

    os: str
    architecture: str
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(filter(None, (self.os, self.architecture, self.variant)))


@dataclass(frozen=True, slots=True)
class ImageManifest:
    """Config and layers, lowest first; a layer may stand twice."""

    config: Descriptor
    layers: tuple[Descriptor, ...]


def this_platform() -> Platform:
    """Of this machine."""
    machine = platform.machine()
    architecture, variant = _MACHINES.get(machine, (machine, ""))
    return Platform("linux", architecture, variant)


def is_index(media_type: str, raw: bytes) -> bool:
    """It names manifests, not layers. What the document says of itself wins over the header's word."""
    doc = _document(raw)
    stated = doc.get("mediaType", media_type.partition(";")[0].strip())
    if stated in _INDEXES:
        return True
    if stated in _MANIFESTS:
        return False
    return "manifests" in doc and "config" not in doc


def choose(raw: bytes, wanted: Platform) -> Descriptor:
    """The manifest of `wanted` in an index: the first that fits, one of its own variant before one without.

    Raises:
        Corrupt: not an index.
        NotFound: none for this platform; says which there are.
    """
    found: list[tuple[int, Descriptor]] = []
    seen: list[str] = []
    for row in _rows(_document(raw), "manifests"):
        stated = row.get("platform")
        one = _platform(stated) if isinstance(stated, dict) else Platform("linux", "")
        if row.get("mediaType", _MANIFESTS[0]) not in _MANIFESTS or one.os == "unknown":
            continue
        seen.append(str(one))
        if (one.os, one.architecture) == (wanted.os, wanted.architecture) and one.variant in ("", wanted.variant):
            found.append((0 if one.variant == wanted.variant else 1, _descriptor(row)))
    if not found:
        there = ", ".join(dict.fromkeys(seen)) or "nothing"
        raise NotFound(f"the image has no {wanted}, only {there[:200]}", hint="push it for this platform, or name another image")
    return min(found, key=lambda pair: pair[0])[1]


def parse_image_manifest(raw: bytes) -> ImageManifest:
    """Read a manifest.

    Raises:
        Corrupt: not one.
        Misconfigured: one that cannot be staged; says why.
    """
    doc = _document(raw)
    if doc.get("schemaVersion") == 1:
        raise Misconfigured("the image has a manifest of schema 1", hint="push it again with a builder of this decade")
    stated = doc.get("config")
    if not isinstance(stated, dict):
        raise Corrupt("the registry's manifest has no config", hint="is it an image?")
    config = _descriptor(stated)
    if config.media_type not in _CONFIGS:
        raise Misconfigured(f"{config.media_type[:80]} is no container image", hint="only images can be unpacked for containers")
    layers = tuple(_layer(row) for row in _rows(doc, "layers"))
    if not 0 < len(layers) <= MAX_LAYERS:
        raise Misconfigured(f"the image has {len(layers)} layers", hint=f"1 to {MAX_LAYERS} can be stacked")
    if config.size_bytes > MAX_CONFIG_BYTES:
        raise Corrupt(f"the image's config has {config.size_bytes} bytes", hint="no config is so large")
    return ImageManifest(config, layers)


def parse_config(raw: bytes, manifest: ImageManifest) -> tuple[OciDigest, ...]:
    """The diff IDs, one for each layer.

    Raises:
        Corrupt: not a config, or not of this manifest.
    """
    rootfs = _document(raw).get("rootfs")
    stated = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    if not isinstance(stated, list) or not all(isinstance(one, str) for one in stated):
        raise Corrupt("the image's config names no diff IDs", hint="is it an image?")
    if len(stated) != len(manifest.layers):
        raise Corrupt(f"the config has {len(stated)} diff IDs for {len(manifest.layers)} layers", hint="push the image again")
    return tuple(_checked(one) for one in stated)


def _layer(row: Mapping[str, object]) -> Descriptor:
    layer = _descriptor(row)
    if layer.media_type not in LAYERS:
        raise Misconfigured(
            f"a layer is {layer.media_type[:80]}", hint="tar, gzip and zstd can be unpacked; foreign and encrypted layers cannot"
        )
    return layer


def _descriptor(row: Mapping[str, object]) -> Descriptor:
    media_type, digest, size = row.get("mediaType"), row.get("digest"), row.get("size")
    if not isinstance(media_type, str) or not isinstance(digest, str) or not isinstance(size, int) or isinstance(size, bool):
        raise Corrupt("the registry's manifest has a row without type, digest or size", hint="push the image again")
    if not 0 <= size <= MAX_LAYER_BYTES:
        raise Corrupt(f"the registry's manifest has a row of {size} bytes", hint="push the image again")
    return Descriptor(media_type, _checked(digest), size)


def _checked(digest: str) -> OciDigest:
    try:
        return parse_digest(digest)
    except Misconfigured as exc:
        raise Corrupt(exc.message, hint=exc.hint) from exc


def _platform(row: Mapping[str, object]) -> Platform:
    words = [word if isinstance(word := row.get(name, ""), str) else "" for name in ("os", "architecture", "variant")]
    variant = words[2] or ("v8" if words[1] == "arm64" else "")
    return Platform(words[0][:40], words[1][:40], variant[:40])


def _rows(doc: Mapping[str, object], name: str) -> Sequence[Mapping[str, object]]:
    rows = doc.get(name)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise Corrupt(f"the registry's document has no list of {name}", hint="is it an image?")
    return rows


def _document(raw: bytes) -> dict[str, object]:
    try:
        doc = json.loads(raw)
    except (ValueError, RecursionError) as exc:
        raise Corrupt("the registry's document is not JSON", hint="is there a proxy in between?") from exc
    if not isinstance(doc, dict):
        raise Corrupt("the registry's document is not an object", hint="is there a proxy in between?")
    return doc
