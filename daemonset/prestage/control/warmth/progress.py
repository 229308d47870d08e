"""How far a node is with what a pod waits for, in words: models first, then images with their steps. Pure.

Staging 41 % on n1, about 12 s left, from origin; image registry.example/vllm:0.33 download 30 %
Models warm on n1, about 5 s left; image registry.example/vllm:0.33 unpack
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from prestage.api.nodes import SourceType, State, Step
from prestage.control.demand.image_lines import plain
from prestage.control.gates.prediction import Holding

_IMAGES_MAX: Final = 3
_BUSY: Final = (State.STAGING, State.PENDING)


def staging_words(
    name: str,
    models: Sequence[str],
    images: Mapping[str, str],
    *,
    node: Holding | None,
    sizes: Mapping[str, int],
    left_s: float | None,
) -> str:
    """`images`: artifact to ref. `node`: `name`'s. `left_s`: until it has all of them."""
    held = node or Holding()
    busy = next((one for one in models if held.states.get(one) in _BUSY), None)
    if busy is None and models and all(held.states.get(one) is State.WARM for one in models):
        words = [f"Models warm on {name}"]
    else:
        percent = _percent(models, held, sizes)
        words = [f"Staging {percent} % on {name}" if percent is not None else f"Staging on {name}"]
    if left_s is not None:
        words.append(f"about {left_s:.0f} s left")
    source = held.sources.get(busy if busy is not None else models[0]) if models else None
    if source is not None and not words[0].startswith("Models"):
        words.append("from origin" if source is SourceType.ORIGIN else "from a peer")
    return "; ".join((", ".join(words), *_images(images, held, sizes)))


def image_step(artifact: str, node: Holding, sizes: Mapping[str, int]) -> str:
    """How far one image is there: `download 41 %`, `unpack`."""
    state = node.states.get(artifact)
    if state is not State.STAGING:
        return "waits for its turn" if state is State.PENDING else "is to be staged"
    step = node.steps.get(artifact, Step.DOWNLOAD)
    percent = _percent([artifact], node, sizes) if step is Step.DOWNLOAD else None
    return step.lower() if percent is None else f"{step.lower()} {percent} %"


def _images(images: Mapping[str, str], node: Holding, sizes: Mapping[str, int]) -> Iterator[str]:
    missing = [one for one in images if node.states.get(one) is not State.WARM]
    for artifact in missing[:_IMAGES_MAX]:
        yield f"image {plain(images[artifact])} {image_step(artifact, node, sizes)}"
    if len(missing) > _IMAGES_MAX:
        yield f"{len(missing) - _IMAGES_MAX} more images"


def _percent(digests: Sequence[str], holding: Holding, sizes: Mapping[str, int]) -> int | None:
    """Of all of them together, 100 only once they are whole; None where a size or what is there is not known."""
    if not any(digest in holding.fetched for digest in digests):
        return None
    total = done = 0
    for digest in digests:
        size, state = sizes.get(digest), holding.states.get(digest)
        if size is None or (state is State.STAGING and digest not in holding.fetched):
            return None
        total += size
        done += size if state is State.WARM else min(size, holding.fetched.get(digest, 0))
    return min(99, done * 100 // total) if total else None
