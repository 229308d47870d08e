"""What a client's tree is made of and where each thing lies in it; see docs/format.md, "mounts". Pure.

parts (name, artifact, repository, revision)  ->  links to blobs, symlinks, small files, by path from the tree's top
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from prestage.cacher.digests import ArtifactId, artifact_id
from prestage.cacher.errors import Misconfigured
from prestage.cacher.store import sums
from prestage.cacher.store.holds import HoldId, Mount
from prestage.cacher.store.hub_layout import Leaves, Revision, check_repository, check_revision, folder_of, lay_out
from prestage.cacher.store.sums import Content

FORMAT = 1
HUB = ".hf"
RECORD = ".prestage/.tree.json"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class Part:
    """One artifact of a tree."""

    name: str
    """Its folder."""
    artifact: ArtifactId
    repo: str | None = None
    """The model repository as which .hf/ shows it; None: it is not in there."""
    revision: str | None = None
    """The branch or tag it was asked for by."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a tree is to be."""

    parts: tuple[Part, ...]
    mount: Mount | None = None
    """Whom it is mounted for; None: for nobody."""
    is_flat: bool = False
    """The one part's files lie at the top."""


def check_plan(plan: Plan) -> None:
    """Refuse what does not make a tree.

    Raises:
        Misconfigured: see `check_parts`; several parts in a flat one.
    """
    check_parts(plan.parts)
    if plan.is_flat and len(plan.parts) != 1:
        raise Misconfigured(f"{len(plan.parts)} parts do not fit into one directory", hint="a flat tree is of one artifact")


def check_parts(parts: Sequence[Part]) -> None:
    """Refuse parts that do not make a tree.

    Raises:
        Misconfigured: none, a name that is none or is taken, a repository or revision that cannot be one.
    """
    if not parts:
        raise Misconfigured("a tree of nothing", hint="name at least one artifact: NAME=REF")
    names = set[str]()
    for part in parts:
        if not _NAME.fullmatch(part.name):
            raise Misconfigured(f"{part.name[:80]!r} cannot name a folder", hint="use up to 64 letters, digits, '.', '_', '-'")
        if part.name in names:
            raise Misconfigured(f"two parts are called {part.name!r}", hint="give each a name of its own")
        names.add(part.name)
        if part.repo is not None:
            check_repository(part.repo)
        if part.revision is not None:
            check_revision(part.revision)


def leaves_of(hold: HoldId, plan: Plan, contents: Mapping[ArtifactId, Content], *, verifiable: bool = True) -> Leaves:
    """Everything in a tree; without `verifiable`, all but what a loader verifies against: that needs every sum.

    Raises:
        Misconfigured: two parts claim one revision of one repository.
    """
    parts = plan.parts
    leaves = Leaves(files={RECORD: record(hold, plan)})
    for part in parts:
        content = contents[part.artifact]
        folder = "" if plan.is_flat else f"{part.name}/"
        leaves.links.update({f"{folder}{path}": blob for path, blob in content.binding.items()})
        side = sums.side_files(content) if verifiable else {}
        leaves.files.update({f".prestage/{folder}{name}": raw for name, raw in side.items()})
    if plan.is_flat:
        return leaves
    if shown := [part for part in parts if part.repo is not None]:
        leaves.add(_hub(shown, contents, verifiable=verifiable), below=HUB)
    return leaves


def _hub(parts: Sequence[Part], contents: Mapping[ArtifactId, Content], *, verifiable: bool) -> Leaves:
    revisions = []
    for part in parts:
        content = contents[part.artifact]
        revisions.append(Revision(part.repo or "", content.manifest, content.binding, part.revision))
    leaves = lay_out(revisions)
    for folder in {folder_of(revision.repo) for revision in revisions} if verifiable else ():
        group = [revision for revision in revisions if folder_of(revision.repo) == folder]
        leaves.files[f"{folder}/.prestage/sums"] = _hub_sums(group, contents)
    return leaves


def _hub_sums(revisions: Sequence[Revision], contents: Mapping[ArtifactId, Content]) -> bytes:
    first = revisions[0].manifest.artifact
    table: dict[str, dict[str, object]] = {}
    for revision in revisions:
        artifact = revision.manifest.artifact
        for file in revision.manifest.files:
            row = sums.entry(contents[artifact], file.path)
            table.setdefault(
                f"snapshots/{revision.commit}/{file.path}", row if artifact == first else {**row, "artifact": artifact}
            )
    return sums.document(first, table)


def record(hold: HoldId, plan: Plan) -> bytes:
    """The tree's own account of itself."""
    rows = [{"name": part.name, "artifact": part.artifact, "repo": part.repo, "revision": part.revision} for part in plan.parts]
    document: dict[str, object] = {"format": FORMAT, "hold": hold, "parts": rows}
    if plan.is_flat:
        document["flat"] = True
    if (mount := plan.mount) is not None:
        document["mount"] = {"pod": mount.pod, "target": mount.target, "mount_path": mount.mount_path}
    return json.dumps(document).encode()


def parse_record(raw: bytes) -> Plan | None:
    """What a tree is of; None where its account is damaged."""
    try:
        document = json.loads(raw)
        if document["format"] != FORMAT:
            return None
        mount = document.get("mount")
        plan = Plan(
            tuple(_part(row) for row in document["parts"]),
            None if mount is None else Mount(str(mount["pod"]), str(mount["target"]), str(mount["mount_path"])),
            document.get("flat") is True,
        )
        check_plan(plan)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, Misconfigured):
        return None
    return plan


def _part(row: Mapping[str, object]) -> Part:
    optional = [row.get("repo"), row.get("revision")]
    if not isinstance(row["name"], str) or not all(value is None or isinstance(value, str) for value in optional):
        raise TypeError("not a part")
    repo, revision = (None if value is None else str(value) for value in optional)
    return Part(row["name"], artifact_id(str(row["artifact"])), repo, revision)
