"""Frameworks under test: no network, no progress bars (their monitor thread would be left behind)."""

from __future__ import annotations

import importlib
import importlib.util
import os

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false"}

if importlib.util.find_spec("tqdm"):
    importlib.import_module("tqdm").tqdm.monitor_interval = 0
