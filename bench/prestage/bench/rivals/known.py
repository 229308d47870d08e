"""The list: every tool that the bench knows, by the name used on the command line and in the results."""

from __future__ import annotations

from collections.abc import Mapping

from prestage.bench.rivals import aria2c, curl, huggingface_hub, ours, rclone, s3transfer, s5cmd
from prestage.bench.rivals.ports import Plan

OURS = "prestage"
RIVALS: Mapping[str, Plan] = {
    "s5cmd": s5cmd.plan,
    "rclone": rclone.plan,
    "aria2c": aria2c.plan,
    "curl": curl.plan,
    "huggingface_hub": huggingface_hub.plan,
    "s3transfer": s3transfer.plan,
}
TOOLS: Mapping[str, Plan] = {OURS: ours.plan, **RIVALS}
