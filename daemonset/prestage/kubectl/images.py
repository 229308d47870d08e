"""Answers of `why` about images: of a pod which are staged, where, how far, and which are left to the kubelet. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from prestage.api.nodes import HeldArtifact, State, Step
from prestage.api.texts import quantity_bytes
from prestage.control.demand.image_lines import plain
from prestage.control.gates.images import PodImages
from prestage.control.gates.prediction import Holding
from prestage.control.gates.world import World
from prestage.control.podspec import node_of
from prestage.control.warmth.progress import image_step
from prestage.kube.ports import Object
from prestage.kubectl.finding import Finding, Level, some


def about_images(pod: Object, world: World, *, sees_nodes: bool) -> Iterator[Finding]:
    """Each of its images. Nothing where it can be seen that no node stages any."""
    if sees_nodes and not world.stages_images():
        return
    pulled = world.wishes.of(pod).images
    known = world.recorded_images(pod, pulled.refs)
    for ref in pulled.refs:
        name = plain(ref)
        mine = PodImages(tuple(row for row in known.rows if row[1] == ref))
        if mine.rows:
            said = ", ".join(f"{one[:19]}, {world.sizes.get(one, 0) / 1e9:.1f} GB ({where})" for where, _, one in mine.rows)
            moves = "; its tag is looked up at every start, so nobody waits for it" if ref in pulled.moving else ""
            yield Finding("image", Level.OK, f"{name}: {said}{moves}")
            yield from _where(pod, name, mine, world) if sees_nodes else ()
        elif sees_nodes:
            why = "it is being resolved, or no Origin, CachePolicy or pull secret lets it be"
            yield Finding("image", Level.NOTE, f"{name} is not staged: {why}; the kubelet pulls it")


def _where(pod: Object, name: str, image: PodImages, world: World) -> Iterator[Finding]:
    where, warm = node_of(pod), list[str]()
    for node in [where] if where else sorted(world.holdings()):
        found = image.on(world.architecture(node))
        held = world.holding(node) if world.stages_images(node) else None
        if held is None or not found:
            if where:
                yield Finding("image", Level.NOTE, f"{name}: {where} stages no images; the kubelet pulls it")
            continue
        artifact = min(found)
        if held.states.get(artifact) is State.WARM:
            warm.append(node)
        elif (said := _there(name, node, artifact, held, world.sizes, is_bound=bool(where))) is not None:
            yield said
    if warm:
        yield Finding("image", Level.OK, f"{name} is warm on {some(warm)}")


def _there(name: str, node: str, artifact: str, held: Holding, sizes: Mapping[str, int], *, is_bound: bool) -> Finding | None:
    if (failure := held.errors.get(artifact)) is not None:
        code = f"{failure.kind}, {failure.code}"
        return Finding("image", Level.NOTE, f"{name} could not be staged on {node} ({code}); the kubelet pulls it")
    if artifact in held.told_images_s or held.states.get(artifact) in (State.STAGING, State.PENDING):
        return Finding("image", Level.WAIT, f"{name} on {node}: {image_step(artifact, held, sizes)}")
    if is_bound:
        return Finding("image", Level.NOTE, f"{name} is not on {node}, and nothing has it stage it; the kubelet pulls it")
    return None


def how_far(held: HeldArtifact, size_bytes: int | None) -> str:
    """`Staging (Download, 41 %)`."""
    if held.state is not State.STAGING or held.step is None:
        return str(held.state)
    is_counted = held.step is Step.DOWNLOAD and held.fetched is not None and size_bytes
    if not is_counted:
        return f"{held.state} ({held.step})"
    assert held.fetched is not None
    assert size_bytes
    return f"{held.state} ({held.step}, {min(99, quantity_bytes(held.fetched) * 100 // size_bytes)} %)"


def coming(artifacts: Sequence[HeldArtifact]) -> str:
    """What of images is on its way: `, 2 on their way (Download, Pending)`."""
    busy = [one for one in artifacts if one.state in (State.STAGING, State.PENDING)]
    if not busy:
        return ""
    words = sorted({str(one.step) if one.state is State.STAGING and one.step else str(one.state) for one in busy})
    return f", {len(busy)} on {'its' if len(busy) == 1 else 'their'} way ({', '.join(words)})"
