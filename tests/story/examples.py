"""The files of daemonset/examples as they are run here: as they are, but for what a user changes too, image and machine."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from cluster.installed import IMAGE

EXAMPLES = Path(__file__).resolve().parents[2] / "daemonset" / "examples"


def example(name: str, change: Callable[[dict[str, Any]], None] = lambda _: None) -> str:
    """Its objects, for kubectl apply: our image in the place of the file's, and `change` done to the spec of its pods."""
    found = [one for one in yaml.safe_load_all((EXAMPLES / f"{name}.yaml").read_text()) if one]
    for one in found:
        if "template" in one.get("spec", {}):
            spec = one["spec"]["template"]["spec"]
            for container in spec["containers"]:
                container |= {"image": f"{IMAGE}:test", "imagePullPolicy": "Never"}
            change(spec)
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": found})
