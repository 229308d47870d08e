"""What a node may ask about: what the planner wrote for it; a new node of the same name, nothing of the old one's."""

from __future__ import annotations

from prestage.api.nodes import Action, NodeCache
from prestage.api.reading import Invalid, read
from prestage.control.broker.identity import Node
from prestage.control.broker.refusals import denied
from prestage.kube.errors import Missing
from prestage.kube.ports import Api
from prestage.kube.resources import NODE_CACHES


async def check_planned(api: Api, node: Node, artifact: str) -> None:
    """Raises No where its NodeCache does not say to stage or keep it."""
    refused = denied("NotInPlan", f"{artifact[:80]} is not in the plan of node {node.name}")
    try:
        found = read(NodeCache, await api.get(NODE_CACHES, node.name))
    except (Missing, Invalid) as exc:
        raise refused from exc
    if node.uid is not None and node.uid != found.spec.node_uid:
        raise refused
    for one in found.spec.artifacts or ():
        if one.digest == artifact and one.action is not Action.RELEASE:
            return
    raise refused
