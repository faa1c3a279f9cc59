"""Extract a local archive into a cache folder: safely, once per content, and visible only when it is whole.

Invariants:
- Nothing is written outside the temporary folder: names are relative without `..`, links are made
  last and only where their targets stay inside, devices and pipes are refused.
- What is written is counted, not what headers claim: bytes, members, and the ratio to the archive's size.
- The final folder appears by one rename; a failed extraction leaves nothing behind.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from frame.errors import StoreError
from frame.store.members import ArchiveLimits, Member, open_members

_CHUNK = 2**18
_DEFAULT_LIMITS = ArchiveLimits()
_BROKEN = (
    zipfile.BadZipFile,
    tarfile.TarError,
    gzip.BadGzipFile,
    zlib.error,
    EOFError,
    ValueError,  # a number or a text of a header
    RuntimeError,  # zipfile: a password is needed
)


def extract_archive(archive: Path, cache: Path, limits: ArchiveLimits = _DEFAULT_LIMITS) -> Path:
    """Return the folder with the contents of an archive, extracting it when it is not in the cache yet.

    Args:
        archive: a .zip, .mar, .tar, .tar.gz, .tgz or .tar.z file.
        cache: folder of extracted archives, made when missing; entries are named by the content's SHA-256.

    Raises:
        StoreError: the archive is broken, unsafe or over a limit, or the cache cannot be written.
    """
    try:
        target = cache / _digest(archive)
        if not target.is_dir():
            cache.mkdir(parents=True, exist_ok=True, mode=0o700)
            _extract_new(archive, target, limits)
    except OSError as error:
        message = f"{archive}: cannot be extracted to {cache}: {error.strerror or error}"
        raise StoreError(message) from error
    return target


def _digest(archive: Path) -> str:
    with archive.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _extract_new(archive: Path, target: Path, limits: ArchiveLimits) -> None:
    temporary = Path(tempfile.mkdtemp(prefix=".partial-", dir=target.parent))
    try:
        _Extraction(archive, temporary, limits).run()
        _publish(temporary, target)
    except _BROKEN as error:
        message = f"{archive}: broken or not such an archive: {error}"
        raise StoreError(message) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _publish(temporary: Path, target: Path) -> None:
    """Rename the whole folder into its place; when another process was faster, its result is the same."""
    try:
        temporary.rename(target)
    except OSError:
        if not target.is_dir():
            raise


@dataclass(slots=True)
class _Extraction:
    """One archive into one empty folder."""

    archive: Path
    root: Path
    limits: ArchiveLimits
    written: int = 0
    members: int = 0

    def run(self) -> None:
        """Write files, then hard links, then symbolic links, so that no write goes through a link."""
        hard: list[Member] = []
        symbolic: list[Member] = []
        allowed = self.limits.allowed_bytes(self.archive.stat().st_size)
        with open_members(self.archive, self.limits) as members:
            for member in members:
                self._count_member()
                match member.kind:
                    case "folder":
                        self._path(member).mkdir(parents=True, exist_ok=True)
                    case "file":
                        self._write(member, allowed)
                    case "hard link":
                        hard.append(member)
                    case "link":
                        symbolic.append(member)
        for member in hard:
            self._link_hard(member)
        for member in symbolic:
            self._link_symbolic(member)
        self._check_links(symbolic)

    def _path(self, member: Member) -> Path:
        return self.root.joinpath(*member.parts)

    def _count_member(self) -> None:
        self.members += 1
        if self.members > self.limits.members:
            message = f"{self.archive}: more than {self.limits.members} members"
            raise StoreError(message)

    def _write(self, member: Member, allowed: int) -> None:
        path = self._path(member)
        path.parent.mkdir(parents=True, exist_ok=True)
        # "x": a name that comes twice is an error, since tools disagree on which of the two counts.
        with member.open() as source, path.open("xb") as sink:
            while chunk := source.read(_CHUNK):
                self.written += len(chunk)
                if self.written > allowed:
                    message = f"{self.archive}: more than {allowed} bytes when extracted, at {member.name!r}"
                    raise StoreError(message)
                sink.write(chunk)
        if member.is_executable:
            path.chmod(path.stat().st_mode | 0o100)

    def _link_hard(self, member: Member) -> None:
        """Link to a file of this archive; its parents are real folders as no symbolic link exists yet."""
        source = self.root.joinpath(*member.target_parts())
        path = self._path(member)
        if not source.is_file():
            message = f"{self.archive}: {member.name!r} links to {member.target!r}, which is no file of it"
            raise StoreError(message)
        path.parent.mkdir(parents=True, exist_ok=True)
        os.link(source, path, follow_symlinks=False)

    def _link_symbolic(self, member: Member) -> None:
        path = self._path(member)
        member.target_parts()
        parent = path.parent
        if Path(os.path.realpath(parent)) != self.root.resolve().joinpath(*member.parts[:-1]):
            message = f"{self.archive}: {member.name!r} lies beyond another link"
            raise StoreError(message)
        parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(member.target)

    def _check_links(self, links: list[Member]) -> None:
        """Resolve every link with all of them in place: a chain of harmless looking ones may still leave."""
        root = self.root.resolve()
        for member in links:
            if not Path(os.path.realpath(self._path(member))).is_relative_to(root):
                message = f"{self.archive}: {member.name!r} is a link that leaves the archive"
                raise StoreError(message)
