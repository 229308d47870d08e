"""What is staged by default: everything a serving process reads, no weights twice."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prestage.cacher.manifest import FileEntry
from prestage.cacher.origins.ports import Selection
from prestage.cacher.origins.selection import select, select_paths

DEFAULT = Selection()
NAMES = st.sampled_from(
    [
        "model.safetensors",
        "consolidated.safetensors",
        "pytorch_model.bin",
        "config.json",
        "model.gguf",
        "model.onnx",
        "params.json",
    ]
)
PATHS = st.lists(st.tuples(st.sampled_from(["", "onnx/", "original/", "unet/"]), NAMES).map("".join), unique=True, max_size=12)


def test_older_formats_are_left_out_where_safetensors_lie_beside_them() -> None:
    listed = ["config.json", "model.safetensors", "pytorch_model.bin", "pytorch_model.bin.index.json", "tf_model.h5"]
    listed += ["flax_model.msgpack", "rust_model.ot", "model.pth", "optimizer.pt", "tokenizer.json", "model.ckpt"]
    assert select_paths(listed, DEFAULT) == ["config.json", "model.safetensors", "tokenizer.json"]


def test_exports_for_other_runtimes_are_left_out_wherever_they_lie() -> None:
    listed = ["model.safetensors", "onnx/model.onnx", "onnx/model.onnx_data", "onnx/config.json", "openvino/m.xml", "q/m.gguf"]
    assert select_paths(listed, DEFAULT) == ["model.safetensors"]


def test_the_authors_own_packing_is_left_out_where_safetensors_lie_beside_the_folder() -> None:
    llama = ["model-00001-of-00002.safetensors", "original/consolidated.00.pth", "original/params.json"]
    assert select_paths(llama, DEFAULT) == ["model-00001-of-00002.safetensors"]
    mistral = ["consolidated.safetensors", "model-00001-of-00003.safetensors", "params.json", "tekken.json"]
    assert select_paths(mistral, DEFAULT) == ["model-00001-of-00003.safetensors", "params.json", "tekken.json"]


def test_a_consolidated_file_alone_is_the_model() -> None:
    assert select_paths(["consolidated.safetensors", "params.json"], DEFAULT) == ["consolidated.safetensors", "params.json"]


@pytest.mark.parametrize("only", ["pytorch_model.bin", "model.gguf", "onnx/model.onnx", "model.h5"])
def test_without_safetensors_every_format_stays(only: str) -> None:
    assert select_paths([only, "config.json"], DEFAULT) == [only, "config.json"]


def test_a_part_of_a_pipeline_that_has_only_bin_keeps_it() -> None:
    listed = ["unet/model.safetensors", "unet/model.bin", "safety_checker/pytorch_model.bin"]
    assert select_paths(listed, DEFAULT) == ["unet/model.safetensors", "safety_checker/pytorch_model.bin"]


def test_excluding_safetensors_brings_the_other_formats_back() -> None:
    listed = ["model.safetensors", "pytorch_model.bin"]
    assert select_paths(listed, Selection(exclude=("*.safetensors",))) == ["pytorch_model.bin"]


def test_patterns_given_are_all_that_counts() -> None:
    listed = ["model.safetensors", "pytorch_model.bin", "sub/pytorch_model.bin", "onnx/model.onnx", ".git/HEAD"]
    assert select_paths(listed, Selection(include=("*.bin",))) == ["pytorch_model.bin", "sub/pytorch_model.bin"]
    assert select_paths(listed, Selection(include=("*",))) == listed
    assert select_paths(listed, Selection(include=("*.bin",), exclude=("sub/*",))) == ["pytorch_model.bin"]


def test_bookkeeping_of_git_and_of_download_tools_is_left_out() -> None:
    listed = [".git/HEAD", ".cache/huggingface/download/x.metadata", ".gitattributes", "weights.bin"]
    assert select_paths(listed, DEFAULT) == [".gitattributes", "weights.bin"]


@given(PATHS)
def test_a_folder_with_weights_never_loses_its_last_ones(paths: list[str]) -> None:
    kept = select_paths(paths, DEFAULT)
    assert [path for path in paths if path in kept] == kept
    if any(path.endswith((".safetensors", ".bin", ".gguf", ".onnx")) for path in paths):
        assert any(path.endswith((".safetensors", ".bin", ".gguf", ".onnx")) for path in kept)
    assert select_paths(kept, DEFAULT) == kept


def test_entries_are_selected_by_their_paths() -> None:
    files = [FileEntry("a.bin", 1), FileEntry("a.safetensors", 2)]
    assert select(files, DEFAULT) == [files[1]]
