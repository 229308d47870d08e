"""An image, resolved: what is to be staged, under which chain IDs, and the artifact's name that may be shown of it. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from prestage.cacher.digests import ArtifactId, Digest
from prestage.cacher.errors import Corrupt
from prestage.cacher.manifest import FileEntry, Manifest, manifest_of
from prestage.images.chains import ChainId, chain_ids
from prestage.images.descriptors import Descriptor, ImageManifest, parse_config
from prestage.images.names import ImageName, OciDigest


@dataclass(frozen=True, slots=True)
class Layer:
    """One place in the stack."""

    blob: Descriptor
    diff_id: OciDigest
    chain: ChainId
    """The snapshot's name once it is unpacked."""
    parent: ChainId | None
    """The chain below; None for the lowest."""


@dataclass(frozen=True, slots=True)
class Image:
    """One platform of one image."""

    name: ImageName
    authority: str
    roots: tuple[OciDigest, ...]
    """Index, if there is one, and manifest: what a pull stores first, and we never do."""
    config: Descriptor
    config_bytes: bytes
    layers: tuple[Layer, ...]
    """Lowest first; one blob may stand twice."""

    @property
    def blobs(self) -> tuple[Descriptor, ...]:
        """The layers' blobs, each once, in the order in which they are needed."""
        return tuple({layer.blob.digest: layer.blob for layer in self.layers}.values())

    @property
    def top(self) -> ChainId:
        """The chain of the whole image."""
        return self.layers[-1].chain

    @property
    def size_bytes(self) -> int:
        """Of the blobs, config left out."""
        return sum(blob.size_bytes for blob in self.blobs)

    def manifest(self) -> Manifest:
        """As an artifact of the house: its name is a digest over digests, and grants nothing."""
        files = [FileEntry("config", self.config.size_bytes, digest=Digest(self.config.digest))]
        for number, blob in enumerate(self.blobs):
            files.append(FileEntry(f"layers/{number:03}", blob.size_bytes, digest=Digest(blob.digest)))
        return manifest_of(self.authority, "", files, revision=self.roots[-1], kind="image")

    @property
    def artifact(self) -> ArtifactId:
        """What objects, metrics and logs may say of it."""
        return self.manifest().artifact


def layer_manifest(authority: str, blob: Descriptor) -> Manifest:
    """One blob as an artifact by itself: it comes, goes into containerd and leaves our store alone."""
    return manifest_of(authority, "", [FileEntry("layer", blob.size_bytes, digest=Digest(blob.digest))], kind="image-layer")


def assemble(
    name: ImageName, authority: str, roots: tuple[OciDigest, ...], manifest: ImageManifest, config_bytes: bytes
) -> Image:
    """Put together what was fetched and checked against its digests.

    Raises:
        Corrupt: config and manifest do not fit.
    """
    diff_ids = parse_config(config_bytes, manifest)
    chains = chain_ids(diff_ids)
    sizes: dict[str, int] = {}
    for blob in manifest.layers:
        if sizes.setdefault(blob.digest, blob.size_bytes) != blob.size_bytes:
            raise Corrupt("the manifest names one layer with two sizes", hint="push the image again")
    layers = tuple(
        Layer(blob, diff_id, chain, parent)
        for blob, diff_id, chain, parent in zip(manifest.layers, diff_ids, chains, (None, *chains[:-1]), strict=True)
    )
    return Image(name, authority, roots, manifest.config, config_bytes, layers)
