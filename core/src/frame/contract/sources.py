"""Model sources as data, and what one is given and does: where a model's url may point.

A source lists the files of a model and reads them from any byte on. All else is done for it, in a process of
its own: the cache, going on after a broken connection, checksums, the time limit, the room on the disk.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSource:
    """A kind of place that models come from, as data.

    Attributes:
        schemes: of the urls that are its, in lower case: `("s3",)`.
        api: range of plugin API versions that it was written for.
        target: `"package.module:Class"` of its `RemoteModel`, imported by the download process alone.
        requires: modules that it needs, each with the command that installs it.
    """

    name: str
    schemes: tuple[str, ...]
    api: tuple[int, int]
    target: str
    requires: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteFile:
    """One file of a model, as it is now.

    Attributes:
        path: relative, with `/`; where it will lie in the model's folder.
        size_bytes: None when it is not known before it is read.
        version: what changes with its content (ETag, commit); equal ones are the same bytes.
        checksums: hexadecimal digests by name, `sha256` or `md5`.
    """

    path: str
    size_bytes: int | None
    version: str
    checksums: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceContext:
    """What a source is given.

    Attributes:
        environ: the server's environment, without its own secrets; credentials are the source's to find.
        allows_private: it may connect to loopback, link-local and private addresses.
        timeout: seconds for one connection attempt, and for one read without a byte.
    """

    environ: Mapping[str, str]
    allows_private: bool
    timeout: float


class SourceError(Exception):
    """The model cannot be had, and trying again will not help: it is not there, or not allowed."""


class SourceChangedError(Exception):
    """A file is no longer the version that was listed: the download begins anew."""


class RemoteModel(ABC):
    """A model at one url. Used by one thread, in the download process."""

    @abstractmethod
    def __init__(self, url: str, context: SourceContext) -> None:
        """Take the url, without connecting yet."""

    @abstractmethod
    def files(self) -> Sequence[RemoteFile]:
        """List the model's files: one archive, one file, or a folder's.

        Raises:
            SourceError: there is none, or it may not be read.
            OSError: the connection failed; it is tried again.
        """

    @abstractmethod
    def read(self, file: RemoteFile, offset: int) -> Iterator[bytes]:
        """Yield the bytes of a listed file from `offset` on.

        Raises:
            SourceChangedError: the file has another version now.
            SourceError, OSError: as `files`.
        """

    def close(self) -> None:  # noqa: B027  # optional
        """Free what is held. Idempotent."""
