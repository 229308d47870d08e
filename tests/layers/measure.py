"""`prestage bench image` on servers of its own, with and without a throttle, through the socket and in place.

    PYTHONPATH=tests python -m layers.measure FOLDER [MB of a layer]

FOLDER keeps the registry: the second time nothing is pushed. Needs root, containerd and docker-registry.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
import tempfile
from pathlib import Path

from layers import simple
from servers.containerd import Containerd
from servers.registry import Registry

LAYERS = 4


def main(folder: Path, megabytes: int, *, throttles: tuple[str | None, ...] = ("80M", None), rounds: int = 3) -> None:
    tag = f"v{megabytes}"
    is_new = not (folder / "data/docker/registry/v2/repositories/bench/app/_manifests/tags" / tag).exists()
    with Registry(folder) as registry:
        name = f"{registry.host}/bench/app:{tag}"
        if is_new:
            registry.push("bench/app", tag, simple(layers=LAYERS, size_bytes=megabytes * 1_000_000))
        with tempfile.TemporaryDirectory(prefix="ctrd-") as short, Containerd(Path(short)) as containerd:
            for throttle, way in itertools.product(throttles, ((), ("--in-place",))):
                argv = [sys.executable, "-m", "prestage.cacher.cli", "bench", "image", f"oci://{name}", "--rounds", str(rounds)]
                argv += ["--containerd", str(containerd.socket), "--dir", str(folder), *way]
                subprocess.run([*argv, *(("--throttle", throttle) if throttle else ())], check=True, timeout=900)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 500)
