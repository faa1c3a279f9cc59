"""Stores and folders of models."""

import pytest
from frame.api import FileEntry
from frame.errors import StoreError
from frame.store.folders import list_files, list_store, model_folder


def write(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * len(name))
    return folder


def test_store_lists_folders_and_archives_and_skips_hidden_and_empty_ones(tmp_path):
    write(tmp_path, "b/model.py", "a.zip", ".hidden/x", "c.tar.gz", "only_hidden/.x", "README.md")
    (tmp_path / "empty").mkdir()
    listing = list_store(tmp_path)
    assert [path.name for path in listing.models] == ["a.zip", "b", "c.tar.gz"]
    assert [path.name for path in listing.stray] == ["README.md"]


def test_only_sub_folder_is_the_model(tmp_path):
    write(tmp_path, "inner/deeper/x", ".DS_Store", "__MACOSX/x")
    assert model_folder(tmp_path) == tmp_path / "inner"


def test_folder_with_a_file_is_the_model_itself(tmp_path):
    write(tmp_path, "inner/x", "serving.properties")
    assert model_folder(tmp_path) == tmp_path
    write(tmp_path / "two", "a/x", "b/x")
    assert model_folder(tmp_path / "two") == tmp_path / "two"


def test_files_are_listed_two_levels_deep(tmp_path):
    write(tmp_path, "b.onnx", "a/saved_model.pb", "a/variables/deep", ".git/config", "a/.x")
    assert list_files(tmp_path) == (FileEntry("a/saved_model.pb", 16), FileEntry("b.onnx", 6))


def test_linked_files_and_folders_are_followed(tmp_path):
    write(tmp_path / "blobs", "w")
    model = tmp_path / "model"
    model.mkdir()
    (model / "model.onnx").symlink_to("../blobs/w")
    (model / "sub").symlink_to("../blobs")
    (model / "broken").symlink_to("nowhere")
    assert [entry.path for entry in list_files(model)] == ["model.onnx", "sub/w"]


def test_missing_folder_is_an_error(tmp_path):
    with pytest.raises(StoreError, match="cannot be read: No such file"):
        list_store(tmp_path / "none")
