"""All our gates off, at once: before an uninstall, or by hand when in doubt."""

from __future__ import annotations

from prestage.cacher.errors import PrestageError
from prestage.control.gates.loop import release_patch
from prestage.control.podspec import is_gated
from prestage.kube.errors import Conflict, Invalid, Missing
from prestage.kube.ports import Api, PatchType, Selection, name_of, namespace_of
from prestage.kube.resources import PODS

_PAGE = 500
_ROUNDS = 3


async def ungate(api: Api) -> tuple[int, list[str]]:
    """How many were released, and what could not be, each with why. Pods that meanwhile changed are looked at again."""
    released, failures = 0, list[str]()
    for _ in range(_ROUNDS):
        count, failures, again = await _round(api)
        released += count
        if not again:
            break
    return released, failures


async def _round(api: Api) -> tuple[int, list[str], bool]:
    released, again, failures, rest = 0, False, list[str](), None
    while True:
        page = await api.page(PODS, Selection(), limit=_PAGE, rest=rest)
        for pod in filter(is_gated, page.items):
            try:
                await api.patch(PODS, name_of(pod), release_patch(pod), namespace=namespace_of(pod), type=PatchType.JSON)
                released += 1
            except Missing:
                continue
            except (Conflict, Invalid):
                again = True
                failures.append(f"{namespace_of(pod)}/{name_of(pod)}: it kept changing")
            except PrestageError as exc:
                failures.append(f"{namespace_of(pod)}/{name_of(pod)}: {exc}")
        rest = page.rest
        if rest is None:
            return released, failures, again
