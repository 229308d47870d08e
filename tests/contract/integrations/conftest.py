"""Frameworks under test without progress bars (their monitor thread would be left behind); `make` sets them offline."""

from __future__ import annotations

import importlib
import importlib.util

if importlib.util.find_spec("tqdm"):
    importlib.import_module("tqdm").tqdm.monitor_interval = 0
