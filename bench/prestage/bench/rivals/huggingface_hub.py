"""huggingface_hub: the HTTP download under snapshot_download, without Xet: one stream for one file.

python -m prestage.bench.rivals.huggingface_hub URL OUTPUT
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from prestage.bench.rivals.ports import Invocation, Target, Unfit, url_of


def plan(target: Target, folder: Path) -> Invocation:
    """`http_get` of one URL."""
    if importlib.util.find_spec("huggingface_hub") is None:
        raise Unfit("huggingface_hub is not installed")
    module = (sys.executable, "-m", "prestage.bench.rivals.huggingface_hub")
    about = (sys.executable, "-c", "import huggingface_hub; print('huggingface_hub', huggingface_hub.__version__)")
    quiet = {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_XET": "1"}
    trust = {"SSL_CERT_FILE": str(target.ca_bundle)} if target.ca_bundle else {}
    return Invocation((*module, url_of(target), str(folder / "object")), about, folder / "object", {**quiet, **trust})


def main() -> None:
    """One download."""
    from huggingface_hub.file_download import http_get

    with open(sys.argv[2], "wb") as sink:
        http_get(sys.argv[1], sink)


if __name__ == "__main__":
    main()
