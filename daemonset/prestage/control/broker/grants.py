"""Who may mount whose StagedModels. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from prestage.api.models import StagedModelGrant


def grant_for(grants: Iterable[StagedModelGrant], *, model: str, namespace: str, service_account: str) -> StagedModelGrant | None:
    """The first of the owner's grants that lets pods of `namespace` and `service_account` have `model`."""
    for grant in grants:
        named = any(one.name == model for one in grant.spec.to)
        if named and any(
            who.namespace == namespace and who.service_account in ("*", service_account) for who in grant.spec.from_
        ):
            return grant
    return None
