"""A build backend that builds nothing: pip asks one for a source distribution's metadata even when it only downloads it.

Those stand in the distribution already, as PKG-INFO; so no Rust is needed to read Python tests.
"""

from __future__ import annotations

import shutil
from email.parser import Parser
from pathlib import Path


def prepare_metadata_for_build_wheel(metadata_directory: str, config_settings: object = None) -> str:
    """Called by pip in the folder of the unpacked distribution; returns the name of the folder that it made."""
    told = Parser().parsestr(Path("PKG-INFO").read_text(encoding="utf-8"))
    folder = Path(metadata_directory) / f"{told['Name']}-{told['Version']}.dist-info"
    folder.mkdir()
    shutil.copy("PKG-INFO", folder / "METADATA")
    return folder.name
