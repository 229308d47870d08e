"""vLLM engines, one after the other, each asked the same: `vllm_offline.py MODEL FORMAT...`.

Prints for each format a line of JSON: {"format", "tokens", "logprobs"} after the load, the same after `reload_weights`, under
"reloaded". The format "ring" (engines/ring.py) is registered in this process.
"""

from __future__ import annotations

import argparse
import gc
import json
from typing import Any

PROMPT = [1, 5, 9, 33]
NEW_TOKENS = 8


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("formats", nargs="+")
    asked = parser.parse_args()
    from vllm.distributed import cleanup_dist_env_and_memory

    if "ring" in asked.formats:
        from engines import ring

        ring.register()
    for load_format in asked.formats:
        found = run(asked.model, load_format)
        print("RESULT " + json.dumps(found), flush=True)
        gc.collect()
        cleanup_dist_env_and_memory()


def run(model: str, load_format: str) -> dict[str, Any]:
    from vllm import LLM

    engine = LLM(
        model=model,
        load_format=load_format,
        skip_tokenizer_init=True,
        enforce_eager=True,
        max_model_len=128,
        max_num_seqs=2,
        dtype="bfloat16",
        enable_prefix_caching=False,
    )
    loaded = answer(engine)
    engine.collective_rpc("reload_weights")
    return {"format": load_format, **loaded, "reloaded": answer(engine)}


def answer(engine: Any) -> dict[str, Any]:
    from vllm import SamplingParams

    sampling = SamplingParams(temperature=0, max_tokens=NEW_TOKENS, detokenize=False, ignore_eos=True, logprobs=0)
    made = engine.generate([{"prompt_token_ids": PROMPT}], sampling, use_tqdm=False)[0].outputs[0]
    tokens = list(made.token_ids)
    return {"tokens": tokens, "logprobs": [step[token].logprob for step, token in zip(made.logprobs, tokens, strict=True)]}


if __name__ == "__main__":
    main()
