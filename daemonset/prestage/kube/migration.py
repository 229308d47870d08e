"""Stored objects of an older version, written anew in the one that is stored now, so that the older one may go. Idempotent.

An object is stored in the version that was current when it was written last; the CRD's `status.storedVersions` lists all that may
be in use, and no version leaves `spec.versions` while it is there. Whoever upgrades the CRDs runs this after them.
"""

from __future__ import annotations

from prestage.kube.errors import Conflict, Gone, Invalid, Missing
from prestage.kube.ports import Api, Object, Resource, metadata_of
from prestage.kube.resources import DEFINITIONS

_PAGE = 200
_ATTEMPTS = 5


async def migrate(api: Api, resource: Resource) -> int:
    """Returns how many objects were looked at; 0 where nothing of an older version can be stored.

    Raises:
        Missing: there is no such CRD.
        Gone: the list was cut by a compaction each time; run it again.
        Conflict: the CRD changes all the time; run it again.
    """
    group = resource.group_version.partition("/")[0]
    name = f"{resource.plural}.{group}"
    definition = await api.get(DEFINITIONS, name)
    storage = storage_version(definition)
    if stored_versions(definition) == [storage]:
        return 0
    seen = await _rewritten(api, Resource(f"{group}/{storage}", resource.plural, resource.kind, resource.namespaced))
    # with the resourceVersion of before: had the stored version changed meanwhile, the rewriting was in vain
    version = metadata_of(definition)["resourceVersion"]
    patch = {"metadata": {"resourceVersion": version}, "status": {"storedVersions": [storage]}}
    await api.patch(DEFINITIONS, name, patch, subresource="status")
    return seen


def storage_version(definition: Object) -> str:
    """The version in which objects are stored now. Raises Invalid where the definition has none."""
    spec = definition.get("spec")
    versions = spec.get("versions") if isinstance(spec, dict) else None
    for version in versions if isinstance(versions, list) else ():
        if version.get("storage"):
            return str(version["name"])
    raise Invalid("the definition names no version to store")


def stored_versions(definition: Object) -> list[str]:
    """Those in which objects may be stored."""
    status = definition.get("status")
    found = status.get("storedVersions") if isinstance(status, dict) else None
    return [str(version) for version in found] if isinstance(found, list) else []


async def _rewritten(api: Api, resource: Resource) -> int:
    for _ in range(_ATTEMPTS):
        seen, rest = 0, None
        try:
            while True:
                page = await api.page(resource, limit=_PAGE, rest=rest)
                for one in page.items:
                    await _rewrite(api, resource, one)
                seen, rest = seen + len(page.items), page.rest
                if rest is None:
                    return seen
        except Gone:
            continue
    raise Gone(f"{resource.plural}: every list was cut by a compaction", hint="run it again")


async def _rewrite(api: Api, resource: Resource, one: Object) -> None:
    try:
        await api.replace(resource, one)
    except (Conflict, Missing):
        return  # whoever wrote it meanwhile stored it in the new version, or took it away
