"""`python -m prestage.loader explain PATH`: residency, the way each file would take, why. Exit code 1: it cannot be loaded."""

from __future__ import annotations

import argparse
import json
import sys

from prestage.loader.errors import SafetensorError
from prestage.loader.explanation import explain
from prestage.loader.ways import Destination


def main(arguments: list[str]) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m prestage.loader")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("explain", help="what a load of PATH would do now, and why; reads no data")
    command.add_argument("path", metavar="PATH", help="a model's folder, an index or a safetensors file")
    command.add_argument("--device", default="cpu")
    command.add_argument("--readers", type=int, default=1, help="processes that read these files at about the same time")
    command.add_argument("--destination", choices=[each.value for each in Destination], default="auto")
    command.add_argument("--json", action="store_true")
    chosen = parser.parse_args(arguments)
    try:
        found = explain(chosen.path, device=chosen.device, readers=chosen.readers, destination=chosen.destination)
    except (OSError, SafetensorError) as exc:
        print(f"prestage.loader: {exc}", file=sys.stderr)  # noqa: T201 - a command line
        return 1
    print(json.dumps(found.to_dict()) if chosen.json else "\n".join(found.lines()))  # noqa: T201 - a command line
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
