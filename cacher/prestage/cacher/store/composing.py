"""What a client's tree is made of and where each thing lies in it; see docs/format.md, "mounts" and "trees". Pure.

parts (name, artifact, repository, revision)  ->  links to blobs, symlinks, small files, by path from the tree's top

A pod's tree is two: what every pod with such a volume sees, and over its `.prestage/` what is this pod's own.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import rfc8785

from prestage.cacher.digests import ArtifactId, artifact_id
from prestage.cacher.errors import Misconfigured
from prestage.cacher.store import sums
from prestage.cacher.store.holds import HoldId, Mount
from prestage.cacher.store.hub_layout import Leaves, Revision, check_repository, check_revision, folder_of, is_main, lay_out
from prestage.cacher.store.sums import Content

FORMAT = 1
FORMAT_OWN = 2
"""Of a pod's own account: unlike the first it lies apart from the tree."""
HUB = ".hf"
SIDE = ".prestage"
OWN_RECORD = ".tree.json"
RECORD = f"{SIDE}/{OWN_RECORD}"
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
    leaves = shared_leaves(plan, contents, verifiable=verifiable)
    for part in plan.parts if verifiable else ():
        side = sums.side_files(contents[part.artifact])
        leaves.files.update({f"{SIDE}/{_folder(plan, part)}{name}": raw for name, raw in side.items()})
    leaves.files[RECORD] = record(hold, plan)
    return leaves


def shared_leaves(plan: Plan, contents: Mapping[ArtifactId, Content], *, boot: str = "", verifiable: bool = True) -> Leaves:
    """As `leaves_of`, but for what is one client's own: in `.prestage/` there is only the tree's account of itself.

    Raises:
        Misconfigured: as `leaves_of`.
    """
    parts = plan.parts
    leaves = Leaves(files={RECORD: shared_record(plan, boot)})
    for part in parts:
        folder = _folder(plan, part)
        leaves.links.update({f"{folder}{path}": blob for path, blob in contents[part.artifact].binding.items()})
    if plan.is_flat:
        return leaves
    if shown := [part for part in parts if part.repo is not None]:
        leaves.add(_hub(shown, contents, verifiable=verifiable), below=HUB)
    return leaves


def own_links(plan: Plan) -> Iterator[tuple[str, ArtifactId, str]]:
    """What a pod's own `.prestage/` shows of the views of its artifacts: path, artifact, name in the view's."""
    for part in plan.parts:
        for name in sums.SIDE_FILES:
            yield f"{_folder(plan, part)}{name}", part.artifact, name


def _folder(plan: Plan, part: Part) -> str:
    return "" if plan.is_flat else f"{part.name}/"


def key_of(plan: Plan) -> str:
    """Names what is not one client's own: 64 hex digits. Plans with one key show the same."""
    return hashlib.sha256(rfc8785.dumps([plan.is_flat, [_row(part) for part in plan.parts]])).hexdigest()


def differ_by_name(one: Plan, other: Plan) -> bool:
    """They show the same but for the one folder's name, if that."""
    if len(one.parts) != 1 or len(other.parts) != 1 or one.is_flat or other.is_flat:
        return False
    mine, theirs = one.parts[0], other.parts[0]
    same = (mine.artifact, mine.repo) == (theirs.artifact, theirs.repo)
    return same and all(part.revision is None or is_main(part.revision) for part in (mine, theirs))


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
    return _record(FORMAT, hold, plan)


def own_record(hold: HoldId, plan: Plan) -> bytes:
    """What the part of a pod's tree that is its own says of it."""
    return _record(FORMAT_OWN, hold, plan)


def _record(version: int, hold: HoldId, plan: Plan) -> bytes:
    document: dict[str, object] = {"format": version, "hold": hold, **_said(plan)}
    if (mount := plan.mount) is not None:
        document["mount"] = {"pod": mount.pod, "target": mount.target, "mount_path": mount.mount_path}
    return json.dumps(document).encode()


def shared_record(plan: Plan, boot: str) -> bytes:
    """What a tree that pods share says of itself: nothing of any of them."""
    return json.dumps({"format": FORMAT_OWN, "boot": boot, **_said(plan)}).encode()


def parse_boot(raw: bytes) -> str:
    """In which boot a shared tree was made; empty where its account does not say."""
    try:
        return str(json.loads(raw)["boot"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""


def _said(plan: Plan) -> dict[str, object]:
    rows = [_row(part) for part in plan.parts]
    return {"parts": rows, "flat": True} if plan.is_flat else {"parts": rows}


def _row(part: Part) -> dict[str, str | None]:
    return {"name": part.name, "artifact": part.artifact, "repo": part.repo, "revision": part.revision}


def parse_record(raw: bytes) -> Plan | None:
    """What a tree is of; None where its account is damaged."""
    try:
        document = json.loads(raw)
        if document["format"] not in (FORMAT, FORMAT_OWN):
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
