"""CustomResourceDefinitions, from the kinds. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import yaml

from prestage.api.kinds import KINDS
from prestage.api.marks import Column, Kind
from prestage.api.schemas import schema_of
from prestage.api.values import GROUP, VERSION, Stored

_HEADER = """# Written by `python -m prestage.api crds`: change the types in daemonset/prestage/api, not this file.
"""
_KEEP = {"helm.sh/resource-policy": "keep"}
"""Uninstalling the chart never deletes what users wrote."""


def crd(kind: Kind) -> dict[str, object]:
    """One definition."""
    assert issubclass(kind.type, Stored)
    version: dict[str, object] = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "additionalPrinterColumns": [_column(column) for column in kind.columns],
        "schema": {"openAPIV3Schema": schema_of(kind.type)},
    }
    if "status" in kind.type.__struct_fields__:
        version["subresources"] = {"status": {}}
    if kind.selectable:
        version["selectableFields"] = [{"jsonPath": path} for path in kind.selectable]
    names = {"kind": kind.name, "listKind": f"{kind.name}List", "plural": kind.plural, "singular": kind.singular}
    categories = ["prestage"]
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{kind.plural}.{GROUP}", "annotations": dict(_KEEP)},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced" if kind.namespaced else "Cluster",
            "names": {**names, "shortNames": list(kind.short_names), "categories": categories},
            "versions": [version],
        },
    }


def crds(kinds: Sequence[Kind] = KINDS) -> str:
    """All of them, as YAML."""
    documents = [yaml.dump(crd(kind), sort_keys=False, width=200, allow_unicode=True, Dumper=_Plain) for kind in kinds]
    return _HEADER + "---\n".join(documents)


class _Plain(yaml.SafeDumper):
    """Without anchors: every part is written out."""

    def ignore_aliases(self, data: object) -> bool:
        """Always."""
        return True


def _column(column: Column) -> dict[str, object]:
    made: dict[str, object] = {"name": column.name, "type": column.type, "jsonPath": column.path}
    if column.description:
        made["description"] = column.description
    return {**made, "priority": column.priority} if column.priority else made
