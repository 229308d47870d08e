"""Which of the listed files are staged. Pure.

Patterns given: what they say and nothing else. Without `include`, everything less what no serving process reads:

    droppings      .git/**, .cache/huggingface/**                     a clone's or a download tool's own bookkeeping
    duplicates     *.bin *.pt *.pth *.ckpt *.h5 *.msgpack *.ot         in a folder that holds *.safetensors, with their
                   (and *.bin.index.json, *.h5.index.json …)          indices: the same weights in an older format
    exports        *.gguf *.onnx *.onnx_data *.tflite *.mlmodel,      when any *.safetensors is there at all: the same
                   onnx/** openvino/** coreml/**                      model for another runtime
    originals      original/** metal/**                               when *.safetensors are beside the folder: the
                                                                      authors' own packing (Llama, gpt-oss)
    consolidated   consolidated*.safetensors (and its index)          when model*.safetensors are in the same folder (Mistral)

`*.safetensors` are looked for after `exclude` was applied, so excluding them brings the other formats back. A folder with
only `*.bin` keeps them, whatever its neighbours hold: a diffusion pipeline mixes formats by part.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from prestage.cacher.manifest import FileEntry
from prestage.cacher.origins.ports import Selection

_DROPPINGS = (".git/", ".cache/huggingface/")
_DUPLICATE = re.compile(r".*\.(bin|pt|pth|ckpt|h5|msgpack|ot)(\.index\.json)?")
_EXPORT = re.compile(r".*\.(gguf|onnx|onnx_data|tflite|mlmodel)(\.index\.json)?")
_EXPORT_FOLDERS = ("onnx", "openvino", "coreml")
_ORIGINAL_FOLDERS = ("original", "metal")
_CONSOLIDATED = re.compile(r"consolidated[^/]*\.safetensors(\.index\.json)?")
_SAFETENSORS = ".safetensors"


def select_paths(paths: Iterable[str], selection: Selection) -> list[str]:
    """The wanted ones of `paths`, in the same order."""
    allowed = [path for path in paths if selection.allows(path)]
    if selection.include:
        return allowed
    kept = [path for path in allowed if not path.startswith(_DROPPINGS)]
    return _without_duplicates(kept)


def select(files: Iterable[FileEntry], selection: Selection) -> list[FileEntry]:
    """The wanted ones of `files`, in the same order."""
    listed = list(files)
    wanted = set(select_paths((file.path for file in listed), selection))
    return [file for file in listed if file.path in wanted]


@dataclass(frozen=True, slots=True)
class _Folders:
    """Which folders hold safetensors, and which of them hold a `model*.safetensors`."""

    safe: frozenset[str]
    model: frozenset[str]

    @staticmethod
    def of(paths: Sequence[str]) -> _Folders:
        split = [_split(path) for path in paths if path.endswith(_SAFETENSORS)]
        model = frozenset(folder for folder, name in split if name.startswith("model"))
        return _Folders(frozenset(folder for folder, _ in split), model)


def _without_duplicates(paths: list[str]) -> list[str]:
    folders = _Folders.of(paths)
    if not folders.safe:
        return paths
    return [path for path in paths if not _is_superfluous(path, folders)]


def _is_superfluous(path: str, folders: _Folders) -> bool:
    folder, name = _split(path)
    if _CONSOLIDATED.fullmatch(name) and folder in folders.model:
        return True
    parts = path.split("/")[:-1]
    for depth, part in enumerate(parts):
        beside = "/".join(parts[:depth])
        if part in _ORIGINAL_FOLDERS and beside in folders.safe:
            return True
        if part in _EXPORT_FOLDERS and not name.endswith(_SAFETENSORS):
            return True
    return bool(_EXPORT.fullmatch(name)) or (bool(_DUPLICATE.fullmatch(name)) and folder in folders.safe)


def _split(path: str) -> tuple[str, str]:
    folder, _, name = path.rpartition("/")
    return folder, name
