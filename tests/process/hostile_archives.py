"""Archives that nobody should have made, each with a model around what is wrong with it."""

from __future__ import annotations

import gzip
import io
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator

MODEL = ("serving.properties", b"engine=echo\n")
MANY = 100_001
LARGE = 300 << 20  # beyond what any archive may extract to without being large itself
OUTSIDE = "/tmp/frame-hostile-outside"  # nothing is ever there

Build = Callable[[], bytes]


def _entry(name: str, kind: bytes = tarfile.REGTYPE, target: str = "", mode: int = 0o644) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, target, mode
    return info


def _link(name: str, target: str) -> tarfile.TarInfo:
    return _entry(name, tarfile.SYMTYPE, target)


def _tar(*members: tarfile.TarInfo | tuple[str, bytes]) -> bytes:
    memory = io.BytesIO()
    with tarfile.open(fileobj=memory, mode="w", format=tarfile.PAX_FORMAT) as made:
        for member in (MODEL, *members):
            if isinstance(member, tarfile.TarInfo):
                made.addfile(member)
            else:
                info = _entry(member[0])
                info.size = len(member[1])
                made.addfile(info, io.BytesIO(member[1]))
    return memory.getvalue()


def _zipped(*members: tuple[str | zipfile.ZipInfo, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w", compression) as made:
        for name, data in (MODEL, *members):
            made.writestr(name, data)
    return memory.getvalue()


def _special(name: str, mode: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    return info


def _large_zip() -> bytes:
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as made:
        made.writestr(*MODEL)
        with made.open("zeros", "w", force_zip64=True) as member:
            for _ in range(LARGE >> 20):
                member.write(bytes(1 << 20))
    return memory.getvalue()


def _large_tar() -> bytes:
    memory = io.BytesIO()
    head = _entry("zeros")
    head.size = LARGE
    with gzip.GzipFile(fileobj=memory, mode="wb", compresslevel=1) as packed:
        packed.write(_tar()[:1024] + head.tobuf(tarfile.PAX_FORMAT))
        for _ in range(LARGE >> 20):
            packed.write(bytes(1 << 20))
        packed.write(bytes(1024))
    return memory.getvalue()


def _many_members() -> bytes:
    folder = _entry("d/", tarfile.DIRTYPE).tobuf(tarfile.PAX_FORMAT)
    return gzip.compress(_tar()[:1024] + folder * MANY + bytes(1024), 1)


def _huge_header() -> bytes:
    """Claim an extended header of 7 GB, which a careless reader takes into memory as one block."""
    head = _entry("pax", tarfile.XHDTYPE)
    head.size = 7 << 30
    return _tar()[:1024] + head.tobuf(tarfile.USTAR_FORMAT) + bytes(1 << 16)


def _encrypted() -> bytes:
    data = bytearray(_zipped(("secret", b"x")))
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = data.rindex(mark) + offset
        data[at] |= 1
    return bytes(data)


_TAR: dict[str, tuple[Build, str]] = {
    "goes up": (lambda: _tar(("../x", b"x")), "outside its folder"),
    "goes up later": (lambda: _tar(("a/../../x", b"x")), "outside its folder"),
    "goes up by backslashes": (lambda: _tar(("a\\..\\..\\x", b"x")), "outside its folder"),
    "absolute": (lambda: _tar((OUTSIDE, b"x")), "outside its folder"),
    "link out": (lambda: _tar(_link("l", "../../x")), "leaves the archive"),
    "link to an absolute path": (lambda: _tar(_link("l", "/etc/passwd")), "leaves the archive"),
    "link out by another": (lambda: _tar(_link("a", "."), _link("b", "a/../..")), "leaves the archive"),
    "write through a link": (lambda: _tar(_link("d", "/tmp"), ("d/frame-hostile-outside", b"x")), "leaves"),
    "write through a link inside": (lambda: _tar(_link("d", "e"), ("d/x", b"x"), ("e/y", b"y")), "exists"),
    "settings are a link out": (lambda: _tar(_link("a/serving.properties", "/etc/passwd")), "leaves"),
    "hard link out": (lambda: _tar(_entry("h", tarfile.LNKTYPE, "/etc/passwd")), "leaves the archive"),
    "hard link up": (lambda: _tar(_entry("h", tarfile.LNKTYPE, "../../x")), "leaves the archive"),
    "hard link to a link": (
        lambda: _tar(_link("l", "serving.properties"), _entry("h", tarfile.LNKTYPE, "l")), "no file of it",
    ),
    "device": (lambda: _tar(_entry("d", tarfile.CHRTYPE)), "no file, folder or link"),
    "block device": (lambda: _tar(_entry("d", tarfile.BLKTYPE)), "no file, folder or link"),
    "pipe": (lambda: _tar(_entry("p", tarfile.FIFOTYPE)), "no file, folder or link"),
    "name twice": (lambda: _tar(("a", b"1"), ("a", b"2")), "exists"),
    "file and folder of a name": (lambda: _tar(("a", b"1"), ("a/b", b"2")), "exists|[Nn]ot a directory"),
    "settings twice": (lambda: _tar(MODEL), "exists"),
    "NUL in a name": (lambda: _tar(("a\0b" + "c" * 100, b"x")), "outside its folder|control character"),
    "line end in a name": (lambda: _tar(("a\nb", b"x")), "control character"),
    "escape in a name": (lambda: _tar(("\x1b[2Ja", b"x")), "control character"),
    "overlong name": (lambda: _tar(("n" * 300, b"x")), "too long"),
    "overlong path": (lambda: _tar(("d/" * 3000 + "x", b"x")), "too long"),
    "huge header": (_huge_header, "header of the archive is larger"),
    "cut": (lambda: _tar(("a", bytes(100_000)))[:50_000], "broken"),
}  # fmt: skip

_ZIP: dict[str, tuple[Build, str]] = {
    "goes up": (lambda: _zipped(("../../x", b"x")), "outside its folder"),
    "absolute": (lambda: _zipped((OUTSIDE, b"x")), "outside its folder"),
    "link out": (lambda: _zipped((_special("l", stat.S_IFLNK | 0o777), b"../../x")), "leaves the archive"),
    "link to an absolute path": (lambda: _zipped((_special("l", stat.S_IFLNK), b"/etc/passwd")), "leaves"),
    "link with NUL": (lambda: _zipped((_special("l", stat.S_IFLNK), b"a\0b")), "leaves the archive"),
    "write through a link": (
        lambda: _zipped((_special("d", stat.S_IFLNK), b"/tmp"), ("d/frame-hostile-outside", b"x")), "leaves",
    ),
    "device": (lambda: _zipped((_special("d", stat.S_IFCHR), b"")), "no file, folder or link"),
    "pipe": (lambda: _zipped((_special("p", stat.S_IFIFO), b"")), "no file, folder or link"),
    "file and folder of a name": (lambda: _zipped(("a", b"1"), ("a/b", b"2")), "exists|[Nn]ot a directory"),
    "line end in a name": (lambda: _zipped(("a\nb", b"x")), "control character"),
    "overlong name": (lambda: _zipped(("n" * 300, b"x")), "too long"),
    "compressed otherwise": (lambda: _zipped(compression=zipfile.ZIP_LZMA), "neither stored nor deflated"),
    "encrypted": (_encrypted, "broken"),
    "bomb": (_large_zip, "bytes when extracted"),
    "cut": (lambda: _zipped(("a", bytes(range(256)) * 400))[:-30], "broken"),
    "wrong checksum": (
        lambda: _zipped(("a", b"x" * 50), compression=zipfile.ZIP_STORED).replace(b"x" * 50,
        b"y" * 50), "broken",
    ),
}  # fmt: skip

_PACKED: dict[str, tuple[Build, str]] = {
    "bomb": (_large_tar, "bytes when extracted"),
    "many members": (_many_members, "more than 100000 members"),
    "cut": (lambda: gzip.compress(_tar(("a", bytes(range(256)) * 4000)))[:-2000], "broken"),
    "not a tar": (lambda: gzip.compress(b"no tar" * 1000), "broken"),
}


def archives() -> Iterator[tuple[str, str, Build, str]]:
    """Yield what is wrong, the suffix, what makes the archive, and what its refusal says."""
    for name, (build, said) in _TAR.items():
        yield f"tar: {name}", ".tar", build, said
        yield f"tar.gz: {name}", ".tar.gz", lambda build=build: gzip.compress(build()), said  # type: ignore[misc]
    for name, (build, said) in _ZIP.items():
        yield f"zip: {name}", ".zip", build, said
    for name, (build, said) in _PACKED.items():
        yield f"tar.gz: {name} itself", ".tar.gz", build, said
    for suffix in (".zip", ".tar", ".tar.gz", ".tgz", ".mar"):
        yield f"{suffix}: empty", suffix, lambda: b"", "broken"
        yield f"{suffix}: no archive", suffix, lambda: b"#!/bin/sh\necho no archive\n" * 100, "broken"


def strange_archives() -> Iterator[tuple[str, str, bytes]]:
    """Yield a name, the suffix and the archive, where a model is in it and nothing leaves its folder."""
    yield (
        "tar: runs as its owner",
        ".tar",
        _tar(_entry("run", mode=0o6777), _entry("d", tarfile.DIRTYPE, mode=0o7777)),
    )
    yield "zip: runs as its owner", ".zip", _zipped((_special("run", stat.S_IFREG | 0o6777), b"x"))
    yield "tar: links in a circle", ".tar", _tar(_link("a", "b"), _link("b", "a"))
    yield "tar: a link to its own folder", ".tar", _tar(_link("deep/a", ".."))
    yield "tar: a link to nothing", ".tar", _tar(_link("a", "none"))
    yield (
        "tar: a name that is no UTF-8",
        ".tar",
        _tar().replace(bytes(1024), b"", 0)[:1024]
        + _entry("n\udcff").tobuf(tarfile.USTAR_FORMAT, "utf-8", "surrogateescape")
        + bytes(1024),
    )
    yield "zip: NUL in a name", ".zip", _zipped(("aXb", b"x")).replace(b"aXb", b"a\0b")
    yield "tar: names with dots", ".tar", _tar(("././a", b"x"), ("...", b"y"))
