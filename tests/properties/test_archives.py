"""Whatever an archive holds, nothing is written outside its folder, and no part of it becomes visible."""

from __future__ import annotations

import io
import os
import tarfile
import tempfile
import zipfile
from pathlib import Path

from frame.errors import StoreError
from frame.store.archives import extract_archive
from frame.store.members import ArchiveLimits
from hypothesis import given, settings
from hypothesis import strategies as st

SEGMENT = st.sampled_from(["a", "b", "..", ".", "", "c", "a\\b"])
NAME = st.lists(SEGMENT, min_size=1, max_size=4).map("/".join)
TARGET = st.one_of(NAME, NAME.map(lambda name: "/" + name), st.just("../outside"), st.just("a/../../outside"))
KINDS = st.sampled_from(
    [tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE]
)
LIMITS = ArchiveLimits(total_bytes=10_000, members=20, ratio=5, free_bytes=5_000)


def tar_bytes(members):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, kind, target, size in members:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            info.size = size if kind == tarfile.REGTYPE else 0
            tar.addfile(info, io.BytesIO(b"x" * size))
    return stream.getvalue()


def zip_bytes(members):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, kind, target, size in members:
            info = zipfile.ZipInfo(name or "x")
            is_link = kind == tarfile.SYMTYPE
            info.external_attr = (0o120777 if is_link else 0o100644) << 16
            archive.writestr(info, target if is_link else b"x" * size)
    return stream.getvalue()


def snapshot(root: Path) -> dict[str, str]:
    found = {}
    for folder, names, files in os.walk(root):
        for name in (*names, *files):
            path = Path(folder, name)
            found[str(path.relative_to(root))] = str(path.readlink()) if path.is_symlink() else ""
    return found


def check_extraction(data: bytes, suffix: str) -> None:
    with tempfile.TemporaryDirectory() as text:
        root = Path(text).resolve()
        (root / "outside").mkdir()
        (root / "outside" / "kept").write_text("1")
        archive, cache = root / f"m{suffix}", root / "cache"
        archive.write_bytes(data)
        before = snapshot(root)
        try:
            folder = extract_archive(archive, cache, LIMITS)
        except StoreError:
            assert not cache.exists() or list(cache.iterdir()) == []
        else:
            assert list(cache.iterdir()) == [folder]
            for path in folder.rglob("*"):
                assert Path(os.path.realpath(path)).is_relative_to(folder)
            assert sum(1 for _ in folder.rglob("*")) <= LIMITS.members * 4
        after = {name: target for name, target in snapshot(root).items() if name.split("/")[0] != "cache"}
        assert after == before


MEMBERS = st.lists(st.tuples(NAME, KINDS, TARGET, st.integers(0, 3000)), max_size=8)


@settings(max_examples=200, deadline=None)
@given(MEMBERS)
def test_tar_never_writes_outside(members):
    check_extraction(tar_bytes(members), ".tar")


@settings(max_examples=100, deadline=None)
@given(MEMBERS)
def test_zip_never_writes_outside(members):
    with_unique_names = {name: (name, *rest) for name, *rest in members}
    check_extraction(zip_bytes(with_unique_names.values()), ".zip")


@settings(max_examples=150, deadline=None)
@given(st.data(), st.sampled_from([".tar", ".zip", ".tar.gz"]))
def test_damaged_archive_is_refused_or_whole(data, suffix):
    members = [
        ("a/b", tarfile.REGTYPE, "", 700),
        ("c", tarfile.SYMTYPE, "a/b", 0),
        ("d", tarfile.DIRTYPE, "", 0),
    ]
    whole = bytearray(zip_bytes(members) if suffix == ".zip" else tar_bytes(members))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    check_extraction(bytes(whole[: data.draw(st.integers(0, len(whole)))]), suffix)


def test_the_check_above_notices_an_escape(tmp_path):
    """Extract with the standard library's trusting filter: the same look at the disk finds what it wrote."""
    before = snapshot(tmp_path)
    with tarfile.open(fileobj=io.BytesIO(tar_bytes([("../x", tarfile.REGTYPE, "", 3)]))) as tar:
        (tmp_path / "cache").mkdir()
        tar.extractall(tmp_path / "cache", filter="fully_trusted")
    assert {name for name in snapshot(tmp_path) if name.split("/")[0] != "cache"} != set(before)
