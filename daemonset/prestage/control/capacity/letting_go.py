"""All CapacityBuffers of ours away: before an uninstall, so that no node stays for nobody."""

from __future__ import annotations

from prestage.cacher.errors import NotFound
from prestage.control.capacity.buffers import OURS_ONLY, VERSIONS, standing
from prestage.kube.errors import Conflict, Missing
from prestage.kube.listing import all_of
from prestage.kube.ports import Api


async def let_go(api: Api) -> int:
    """How many there were. Their PodTemplates go with their schedules, and do nothing until then."""
    for resource in VERSIONS:
        try:
            seen = await all_of(api, resource, OURS_ONLY)
        except NotFound:
            continue
        found = [one for each in seen if (one := standing(each)) is not None]
        for one in found:
            try:
                await api.delete(resource, one.name, namespace=one.namespace, uid=one.uid)
            except (Missing, Conflict):
                continue
        return len(found)
    return 0
