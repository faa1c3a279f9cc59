"""Members of zip and tar archives in one form, their names checked, read no faster than the limits allow."""

from __future__ import annotations

import gzip
import io
import re
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from frame.errors import StoreError

_MAX_LINK = 4096
_GZIP_MAGIC = b"\x1f\x8b"
_ZIP_SUFFIXES = (".zip", ".mar")
_HEADER_LIMIT = 2**20
_CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f]")  # lists and logs of files are lines


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveLimits:
    """What an archive may become.

    Attributes:
        total_bytes: all files together.
        members: files, folders and links together.
        ratio: extracted bytes for each byte of the archive, where more than `free_bytes` are extracted.
        free_bytes: small archives of zeros compress a thousandfold and hurt nobody.
    """

    total_bytes: int = 64 * 2**30
    members: int = 100_000
    ratio: int = 100
    free_bytes: int = 256 * 2**20

    def allowed_bytes(self, archive_bytes: int) -> int:
        """Return how much an archive of this size may extract to."""
        return min(self.total_bytes, max(self.free_bytes, self.ratio * archive_bytes))


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One member; `open` gives the contents of a file and may be called while the archive is open.

    Attributes:
        name: as in the archive, for error texts.
        parts: where it goes: segments below the folder, none of them `..`.
        target: of a link, as in the archive.
    """

    name: str
    parts: tuple[str, ...]
    kind: Literal["file", "folder", "link", "hard link"]
    open: Callable[[], IO[bytes]]
    target: str = ""
    is_executable: bool = False

    def target_parts(self) -> tuple[str, ...]:
        """Return the segments of what a link means, from the archive's root.

        Raises:
            StoreError: the target is absolute or above the root.
        """
        parts = [] if self.kind == "hard link" else list(self.parts[:-1])
        for segment in self.target.split("/"):
            if segment == ".." and parts:
                parts.pop()
            elif segment == ".." or "\0" in segment:
                message = f"{self.name!r} is a link that leaves the archive"
                raise StoreError(message)
            elif segment not in {"", "."}:
                parts.append(segment)
        if self.target.startswith("/") or not self.target:
            message = f"{self.name!r} is a link that leaves the archive"
            raise StoreError(message)
        return tuple(parts)


def safe_parts(name: str) -> tuple[str, ...]:
    """Return the segments of a member's name; `.` and doubled `/` do not count.

    Raises:
        StoreError: the name is absolute, goes up, or has a backslash or a control character in it.
    """
    parts = tuple(segment for segment in name.split("/") if segment not in {"", "."})
    if name.startswith("/") or ".." in parts or "\\" in name or "\0" in name:
        message = f"the member {name!r} would be written outside its folder"
        raise StoreError(message)
    if _CONTROL_CHARACTER.search(name):
        raise StoreError(f"the member {name!r} has a control character in its name")
    return parts


@contextmanager
def open_members(archive: Path, limits: ArchiveLimits) -> Iterator[Iterator[Member]]:
    """Open an archive by its suffix and yield its members in the order of the file."""
    with archive.open("rb") as raw:
        if archive.name.lower().endswith(_ZIP_SUFFIXES):
            with zipfile.ZipFile(raw) as opened:
                yield _zip_members(opened)
            return
        packed = raw.peek(len(_GZIP_MAGIC))[:2] == _GZIP_MAGIC
        with gzip.GzipFile(fileobj=raw) if packed else raw as plain:
            bounded = _BoundedReads(plain, limits.allowed_bytes(archive.stat().st_size))
            with tarfile.open(fileobj=bounded, mode="r:") as tar:
                yield _tar_members(tar)


def _zip_members(opened: zipfile.ZipFile) -> Iterator[Member]:
    for info in opened.infolist():
        mode = info.external_attr >> 16
        parts = safe_parts(info.filename)
        if not parts:
            continue
        kind, target = _zip_kind(opened, info, mode)
        yield Member(
            name=info.filename,
            parts=parts,
            kind=kind,
            open=lambda info=info: opened.open(info),  # type: ignore[misc]  # bound early
            target=target,
            is_executable=bool(mode & stat.S_IXUSR),
        )


def _zip_kind(
    opened: zipfile.ZipFile, info: zipfile.ZipInfo, mode: int
) -> tuple[Literal["file", "folder", "link"], str]:
    if info.is_dir():
        return "folder", ""
    if info.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
        message = f"the member {info.filename!r} is neither stored nor deflated; pack it again"
        raise StoreError(message)
    kind = stat.S_IFMT(mode)
    if kind == stat.S_IFLNK:
        if info.file_size > _MAX_LINK:
            message = f"the link {info.filename!r} is too long"
            raise StoreError(message)
        return "link", opened.read(info).decode("utf-8", "surrogateescape")
    if kind not in {0, stat.S_IFREG}:
        message = f"the member {info.filename!r} is no file, folder or link"
        raise StoreError(message)
    return "file", ""


def _tar_members(tar: tarfile.TarFile) -> Iterator[Member]:
    while (info := tar.next()) is not None:
        # tarfile keeps every header that it has read; a hundred thousand would be memory for nothing.
        tar.members.clear()  # type: ignore[attr-defined]  # not in typeshed, public in CPython
        parts = safe_parts(info.name)
        if not parts:
            continue
        yield Member(
            name=info.name,
            parts=parts,
            kind=_tar_kind(info),
            open=lambda info=info: _tar_file(tar, info),  # type: ignore[misc]  # bound early
            target=info.linkname,
            is_executable=bool(info.mode & stat.S_IXUSR),
        )
    _check_tar_end(tar)


def _check_tar_end(tar: tarfile.TarFile) -> None:
    """Refuse an archive that does not end in a block of zeros: tarfile takes a broken header for the end."""
    assert tar.fileobj is not None, "it is open"
    tar.fileobj.seek(tar.offset)
    if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        message = f"unexpected end at byte {tar.offset}"
        raise tarfile.ReadError(message)


def _tar_kind(info: tarfile.TarInfo) -> Literal["file", "folder", "link", "hard link"]:
    if info.isdir():
        return "folder"
    if info.issym():
        return "link"
    if info.islnk():
        return "hard link"
    if info.isreg():
        return "file"
    message = f"the member {info.name!r} is no file, folder or link"
    raise StoreError(message)


def _tar_file(tar: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    opened = tar.extractfile(info)
    assert opened is not None, "extractfile answers None for what is no file only"
    return opened


class _BoundedReads(io.RawIOBase):
    """A tar stream that gives at most 1 MiB a call and ends where the limits end.

    tarfile reads an extended header as one block of the size that the archive claims: a few bytes of
    gzip could make it take all memory.
    """

    def __init__(self, stream: io.BufferedIOBase, limit: int) -> None:
        self._stream = stream
        # Headers and padding come on top of the contents.
        self._limit = 2 * limit + _HEADER_LIMIT

    def read(self, size: int = -1) -> bytes:
        if size < 0 or size > _HEADER_LIMIT:
            message = "a header of the archive is larger than 1 MiB"
            raise StoreError(message)
        if self._stream.tell() > self._limit:
            message = f"the archive is larger than {self._limit} bytes when unpacked"
            raise StoreError(message)
        return self._stream.read(size)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()
