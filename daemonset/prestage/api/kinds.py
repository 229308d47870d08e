"""Every kind of the group."""

from __future__ import annotations

from prestage.api import artifacts, models, nodes, policies, schedules

KINDS = (*models.KINDS, *schedules.KINDS, *artifacts.KINDS, *policies.KINDS, *nodes.KINDS)
