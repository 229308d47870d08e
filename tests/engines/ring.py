"""The classic bug, planted: a vLLM loader whose tensors are views into one buffer, used again for the next tensor."""

from __future__ import annotations

import torch
from vllm.model_executor.model_loader import register_model_loader

from prestage.loader.integrations.vllm_loader import PrestageModelLoader, Weights

RING_BYTES = 4 << 20


class RingModelLoader(PrestageModelLoader):
    """Right in every byte at the moment of the yield, and for no longer."""

    def _read(self, files: list[str], prefix: str) -> Weights:
        ring = torch.empty(RING_BYTES, dtype=torch.uint8, device="cpu")
        for name, tensor in super()._read(files, prefix):
            view = ring[: tensor.numel() * tensor.element_size()].view(tensor.dtype).view(tensor.shape)
            view.copy_(tensor)
            yield name, view
            ring.fill_(0x3F)


def register() -> None:
    register_model_loader("ring")(RingModelLoader)
