"""`python -m prestage.api crds > daemonset/chart-crds/templates/crds.yaml`, `… docs > docs/kubernetes-api.md`."""

from __future__ import annotations

import sys

from prestage.api.crds import crds
from prestage.api.reference import reference

_WRITES = {"crds": crds, "docs": reference}


def main(argv: list[str]) -> int:
    """Print what `argv` names; 2 where it names nothing."""
    if len(argv) != 1 or argv[0] not in _WRITES:
        sys.stderr.write(f"usage: python -m prestage.api {'|'.join(_WRITES)}\n")
        return 2
    sys.stdout.write(_WRITES[argv[0]]())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
