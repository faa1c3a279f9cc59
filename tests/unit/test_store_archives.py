"""Extraction of archives: what is kept, what is refused, what is left behind."""

from __future__ import annotations

import gzip
import io
import stat
import tarfile
import zipfile

import pytest
from frame.errors import StoreError
from frame.store.archives import _publish, extract_archive
from frame.store.members import ArchiveLimits


def make_tar(path, *members, mode="w"):
    """Write a tar of (name, bytes) files and of ready TarInfo objects."""
    with tarfile.open(path, mode) as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                tar.addfile(info, io.BytesIO(member[1]))
    return path


def special(name, kind, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def link(name, target):
    return special(name, tarfile.SYMTYPE, target)


def hard(name, target):
    return special(name, tarfile.LNKTYPE, target)


def make_zip(path, *members, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return path


def zip_info(name, mode):
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    return info


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache" / "models"


def refuse(archive, cache, message, **limits):
    """Check that an archive is refused and that nothing of it stays."""
    outside = sorted(archive.parent.iterdir())
    with pytest.raises(StoreError, match=message):
        extract_archive(archive, cache, ArchiveLimits(**limits))
    assert list(cache.iterdir()) == []
    assert sorted(path for path in archive.parent.iterdir() if path != cache.parent) == outside


FILES = (("model.py", b"code"), ("sub/weights.bin", b"\0" * 1000))


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("m.tar", "w"),
        ("m.tar.gz", "w:gz"),
        ("m.tgz", "w:gz"),
        ("m.tar.z", "w:gz"),
        ("m.TAR", "w"),
        ("m.tar", "w:gz"),
    ],
)
def test_tar_is_extracted(tmp_path, cache, name, mode):
    folder = extract_archive(make_tar(tmp_path / name, *FILES, mode=mode), cache)
    assert contents(folder) == dict(FILES)
    assert folder.parent == cache


@pytest.mark.parametrize("name", ["m.zip", "m.mar"])
def test_zip_is_extracted(tmp_path, cache, name):
    assert contents(extract_archive(make_zip(tmp_path / name, ("sub/", b""), *FILES), cache)) == dict(FILES)


def test_same_content_is_extracted_once(tmp_path, cache):
    first = extract_archive(make_zip(tmp_path / "a.zip", *FILES), cache)
    (first / "mark").write_text("kept")
    (tmp_path / "b.zip").write_bytes((tmp_path / "a.zip").read_bytes())
    assert extract_archive(tmp_path / "b.zip", cache) == first
    assert (first / "mark").read_text() == "kept"


def test_process_that_was_slower_uses_what_the_faster_one_made(tmp_path):
    temporary, target = tmp_path / "mine", tmp_path / "target"
    for folder in (temporary, target):
        folder.mkdir()
        (folder / "x").write_text(folder.name)
    _publish(temporary, target)
    assert (target / "x").read_text() == "target"


def test_folder_that_cannot_be_published_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        _publish(tmp_path / "mine", tmp_path / "target")


def test_changed_content_is_extracted_anew(tmp_path, cache):
    first = extract_archive(make_zip(tmp_path / "a.zip", ("x", b"1")), cache)
    second = extract_archive(make_zip(tmp_path / "a.zip", ("x", b"2")), cache)
    assert (contents(first), contents(second)) == ({"x": b"1"}, {"x": b"2"})


def test_executable_bit_is_kept_and_no_other(tmp_path, cache):
    info = tarfile.TarInfo("run.sh")
    info.mode = 0o6777
    make_tar(tmp_path / "a.tar", info)
    mode = (extract_archive(tmp_path / "a.tar", cache) / "run.sh").stat().st_mode
    assert mode & stat.S_IXUSR
    assert not mode & (stat.S_ISUID | stat.S_ISGID)


def test_links_inside_are_kept(tmp_path, cache):
    root = special("./", tarfile.DIRTYPE)
    members = [
        root,
        link("a/current", "../w/1"),
        ("./w/1", b"one"),
        hard("b/same", "w/1"),
        link("dir", "./w"),
    ]
    folder = extract_archive(make_tar(tmp_path / "a.tar", *members), cache)
    assert (folder / "a/current").read_bytes() == b"one"
    assert (folder / "b/same").read_bytes() == b"one"
    assert (folder / "dir/1").read_bytes() == b"one"


def test_link_of_a_zip_is_kept_inside(tmp_path, cache):
    link_info = zip_info("l", stat.S_IFLNK | 0o777)
    folder = extract_archive(make_zip(tmp_path / "a.zip", ("w", b"1"), (link_info, "w")), cache)
    assert (folder / "l").read_bytes() == b"1"


@pytest.mark.parametrize(("target", "message"), [("../w", "leaves the archive"), ("x" * 5000, "too long")])
def test_link_of_a_zip_that_leaves_or_is_huge_is_refused(tmp_path, cache, target, message):
    link_info = zip_info("l", stat.S_IFLNK | 0o777)
    refuse(make_zip(tmp_path / "a.zip", (link_info, target)), cache, message)


@pytest.mark.parametrize("name", ["/etc/x", "../x", "a/../../x", "a\\..\\x", "..", "a/.."])
def test_names_outside_the_folder_are_refused(tmp_path, cache, name):
    refuse(make_tar(tmp_path / "a.tar", (name, b"x")), cache, "outside its folder")


def test_zip_slip_is_refused(tmp_path, cache):
    refuse(make_zip(tmp_path / "a.zip", ("../../x", b"x")), cache, "outside its folder")


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([link("l", "/etc/passwd")], "leaves the archive"),
        ([link("l", "..")], "leaves the archive"),
        ([link("d/l", "../../x")], "leaves the archive"),
        ([link("l", "")], "leaves the archive"),
        ([hard("l", "/etc/passwd")], "leaves the archive"),
        ([hard("l", "../x")], "leaves the archive"),
        ([hard("l", "nothing")], "which is no file of it"),
        ([link("s", "w"), ("w", b"1"), hard("l", "s")], "which is no file of it"),
        # Each is harmless by its text; together they lead out.
        ([link("x/y/a", "../.."), link("x/y/b", "a/../z")], "is a link that leaves the archive"),
        ([link("a", "."), link("a/b", "x")], "lies beyond another link"),
        ([link("a", "."), link("a/b/c", "x")], "lies beyond another link"),
        ([special("fifo", tarfile.FIFOTYPE)], "is no file, folder or link"),
        ([special("null", tarfile.CHRTYPE)], "is no file, folder or link"),
        ([("x", b"1"), ("x", b"2")], "File exists"),
        ([("x", b"1"), ("x/y", b"2")], "cannot be extracted"),
        ([("x", b"1"), link("x", "y")], "File exists"),
        ([("n" * 300, b"1")], "name too long"),
    ],
)
def test_unsafe_members_are_refused(tmp_path, cache, members, message):
    refuse(make_tar(tmp_path / "a.tar", *members), cache, message)


def test_write_never_follows_a_link_that_came_before(tmp_path, cache):
    victim = tmp_path / "victim"
    victim.mkdir()
    archive = make_tar(tmp_path / "a.tar", link("d", str(victim)), ("d/x", b"1"))
    refuse(archive, cache, "leaves the archive")
    assert list(victim.iterdir()) == []


def test_device_of_a_zip_is_refused(tmp_path, cache):
    archive = make_zip(tmp_path / "a.zip", (zip_info("null", stat.S_IFCHR | 0o666), b""))
    refuse(archive, cache, "is no file, folder or link")


def test_other_compressions_of_a_zip_are_refused(tmp_path, cache):
    archive = make_zip(tmp_path / "a.zip", ("x", b"1"), compression=zipfile.ZIP_LZMA)
    refuse(archive, cache, "neither stored nor deflated")


def test_encrypted_zip_is_refused(tmp_path, cache):
    archive = make_zip(tmp_path / "a.zip", ("x", b"1"))
    data = bytearray(archive.read_bytes())
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    archive.write_bytes(bytes(data))
    refuse(archive, cache, "broken or not such an archive: .*password")


def test_member_limit_counts_links_and_folders(tmp_path, cache):
    folder = special("d", tarfile.DIRTYPE)
    archive = make_tar(tmp_path / "a.tar", folder, ("x", b"1"), link("l", "x"))
    refuse(archive, cache, "more than 2 members", members=2)
    assert contents(extract_archive(archive, cache, ArchiveLimits(members=3)))


def test_total_size_is_counted_as_written(tmp_path, cache):
    archive = make_zip(tmp_path / "a.zip", ("x", b"\0" * 600), ("y", b"\0" * 600))
    refuse(archive, cache, "more than 1000 bytes when extracted, at 'y'", total_bytes=1000)


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_bomb_is_refused_by_its_ratio(tmp_path, cache, kind):
    zeros = b"\0" * 2**20
    archive = (
        make_zip(tmp_path / "a.zip", ("x", zeros))
        if kind == "zip"
        else make_tar(tmp_path / "a.tgz", ("x", zeros), mode="w:gz")
    )
    refuse(archive, cache, "bytes when extracted", ratio=10, free_bytes=1000)
    assert contents(extract_archive(archive, cache, ArchiveLimits(ratio=10)))


def test_header_of_claimed_gigabytes_is_refused_before_it_is_read(tmp_path, cache):
    header = special("pax", tarfile.XHDTYPE)
    header.size = 2**31
    archive = tmp_path / "a.tgz"
    archive.write_bytes(gzip.compress(header.tobuf(tarfile.USTAR_FORMAT) + b"\0" * 2048))
    refuse(archive, cache, "larger than 1 MiB")


def test_member_that_claims_more_than_there_is_is_refused(tmp_path, cache):
    header = special("d", tarfile.REGTYPE)
    header.size = 2**45
    archive = tmp_path / "a.tgz"
    archive.write_bytes(gzip.compress(header.tobuf(tarfile.GNU_FORMAT) + b"\0" * 2048))
    refuse(archive, cache, "unexpected end of data")


def test_tar_that_is_longer_than_its_limit_is_refused(tmp_path, cache):
    members = [(f"f{number}", b"") for number in range(4000)]
    archive = make_tar(tmp_path / "a.tgz", *members, mode="w:gz")
    refuse(archive, cache, "is larger than", total_bytes=100)


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tgz"])
@pytest.mark.parametrize("data", [b"", b"hello", b"\x1f\x8bgarbage", b"PK\x03\x04garbage", b"\0" * 100])
def test_garbage_is_refused(tmp_path, cache, name, data):
    archive = tmp_path / name
    archive.write_bytes(data)
    refuse(archive, cache, "broken or not such an archive")


@pytest.mark.parametrize("cut", [512, 700, 1024, 1536, 2048])
def test_truncated_tar_is_refused(tmp_path, cache, cut):
    archive = make_tar(tmp_path / "a.tar", ("a", b"1" * 512), ("b", b"2" * 512))
    archive.write_bytes(archive.read_bytes()[:cut])
    refuse(archive, cache, "broken or not such an archive")


def test_missing_archive_is_an_error(tmp_path, cache):
    with pytest.raises(StoreError, match="No such file"):
        extract_archive(tmp_path / "none.zip", cache)


def test_unwritable_cache_is_an_error(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(StoreError, match="cannot be extracted to"):
        extract_archive(make_zip(tmp_path / "a.zip", ("x", b"1")), blocked / "cache")
