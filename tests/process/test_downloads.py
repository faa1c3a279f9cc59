"""Models are downloaded whole, once, and go on where a connection broke."""

from __future__ import annotations

import hashlib
import random
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from frame.api import RemoteFile, RemoteModel, SourceChangedError, SourceContext, SourceError
from frame.sources.http import HttpModel
from frame.store import download as downloads
from frame.store.download import download

from tests.process.file_site import FileSite, file_site

BODY = random.Random(5).randbytes(3_000_000)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "_FIRST_PAUSE", 0.01)


def fetch(
    site: FileSite, cache: Path, path: str = "/m.bin", *, checksum: str = "", private: bool = True
) -> Path:
    """Download one url as the download process does."""
    url = f"{site.url}{path}"
    remote = HttpModel(url, SourceContext(environ={}, allows_private=private, timeout=5.0))
    try:
        return download(remote, url, cache, lambda done, total: None, checksum)
    finally:
        remote.close()


def partials(cache: Path) -> list[Path]:
    """Return what is not complete."""
    return list(cache.rglob(".partial-*"))


def test_a_file_is_downloaded_once_and_again_when_it_changed(tmp_path: Path) -> None:
    with file_site(files={"/m.bin": BODY}) as site:
        first = fetch(site, tmp_path)
        assert (first / "m.bin").read_bytes() == BODY
        assert fetch(site, tmp_path) == first
        assert site.fetched == [""]
        site.files["/m.bin"] = BODY[::-1]
        second = fetch(site, tmp_path)
        assert second != first
        assert (second / "m.bin").read_bytes() == BODY[::-1]
        assert (first / "m.bin").read_bytes() == BODY  # somebody may be using it
    assert not partials(tmp_path)


@pytest.mark.parametrize("seed", range(5))
def test_a_broken_connection_goes_on_at_the_byte_where_it_broke(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    cuts = [chance.randrange(len(BODY) // 10) for _ in range(8)]
    with file_site(files={"/m.bin": BODY}, cuts=list(cuts)) as site:
        folder = fetch(site, tmp_path)
    assert (folder / "m.bin").read_bytes() == BODY
    starts = [int(asked.removeprefix("bytes=").rstrip("-") or 0) for asked in site.fetched]
    assert starts == [sum(cuts[:count]) for count in range(len(cuts) + 1)]


def test_a_later_process_goes_on_where_an_earlier_one_ended(tmp_path: Path) -> None:
    with file_site(files={"/m.bin": BODY}, cuts=[1_000_000] + [0] * 20) as site:
        with pytest.raises(OSError, match=r"ended after 1000000 of 3000000|RemoteProtocolError"):
            fetch(site, tmp_path)
        assert len(partials(tmp_path)) == 1
        site.cuts.clear()
        folder = fetch(site, tmp_path)
        assert site.fetched[-1] == "bytes=1000000-"
    assert (folder / "m.bin").read_bytes() == BODY
    assert not partials(tmp_path)


@pytest.mark.parametrize("size", [1, 2_000_000, 4_000_000])
def test_a_file_that_changes_during_its_download_is_never_mixed(tmp_path: Path, size: int) -> None:
    other = random.Random(6).randbytes(size)
    with file_site(files={"/m.bin": BODY}, cuts=[1_234_567]) as site:
        site.on_cut = lambda: site.files.update({"/m.bin": other})
        folder = fetch(site, tmp_path)
    assert (folder / "m.bin").read_bytes() == other
    assert not partials(tmp_path)


def test_a_file_that_never_stays_the_same_is_given_up(tmp_path: Path) -> None:
    numbers = iter(range(100))
    with file_site(files={"/m.bin": BODY}, cuts=[1000] * 100) as site:
        site.on_cut = lambda: site.files.update({"/m.bin": BODY + bytes([next(numbers)])})
        with pytest.raises(SourceError, match="changed 3 times"):
            fetch(site, tmp_path)
    assert not partials(tmp_path)


def test_without_ranges_what_is_here_is_passed_over(tmp_path: Path) -> None:
    with file_site(files={"/m.bin": BODY}, cuts=[1_000_000], knows_ranges=False) as site:
        folder = fetch(site, tmp_path)
    assert (folder / "m.bin").read_bytes() == BODY


def test_without_versions_nothing_is_gone_on_with_and_nothing_is_kept_for_long(tmp_path: Path) -> None:
    with file_site(files={"/m.bin": BODY}, cuts=[1_000_000], knows_versions=False) as site:
        assert (fetch(site, tmp_path) / "m.bin").read_bytes() == BODY
        assert all(asked in {"", "bytes=0-0"} for _, asked, _ in site.asked)
        count = len(site.fetched)
        site.files["/m.bin"] = BODY[:10]
        assert (fetch(site, tmp_path) / "m.bin").read_bytes() == BODY[:10]
        assert len(site.fetched) == count + 1


def test_a_busy_server_is_asked_again_and_a_missing_file_is_not(tmp_path: Path) -> None:
    with file_site(files={"/m.bin": BODY}, statuses={"/m.bin": [503, 429]}) as site:
        assert (fetch(site, tmp_path) / "m.bin").read_bytes() == BODY
        with pytest.raises(SourceError, match="answered 404"):
            fetch(site, tmp_path, "/none.bin")
        assert [path for path, _, _ in site.asked].count("/none.bin") == 1


def test_an_empty_file_is_a_file(tmp_path: Path) -> None:
    with file_site(files={"/m.bin": b""}) as site:
        assert (fetch(site, tmp_path) / "m.bin").read_bytes() == b""


def test_a_checksum_decides(tmp_path: Path) -> None:
    right = hashlib.sha256(BODY).hexdigest()
    with file_site(files={"/m.bin": BODY}) as site:
        assert (fetch(site, tmp_path, checksum=right) / "m.bin").read_bytes() == BODY
        with pytest.raises(SourceError, match="its sha256 is"):
            fetch(site, tmp_path, checksum="0" * 64)


def test_redirects_are_followed_but_not_around_for_ever_nor_to_other_schemes(tmp_path: Path) -> None:
    with file_site(files={"/m.bin": BODY}) as site:
        site.redirects = {"/a": "/b", "/b": f"{site.url}/m.bin", "/c": "/c", "/d": "file:///etc/passwd"}
        folder = fetch(site, tmp_path, "/a")
        assert (folder / "a").read_bytes() == BODY
        with pytest.raises(SourceError, match="redirects"):
            fetch(site, tmp_path, "/c")
        with pytest.raises(SourceError, match="not https"):
            fetch(site, tmp_path, "/d")


def test_private_addresses_are_refused_before_a_byte_is_sent(tmp_path: Path) -> None:
    with file_site(files={"/m.bin": BODY}) as site:
        for host in ("127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "127.1", "0x7f.1"):
            remote = SimpleNamespace(url=site.url.replace("127.0.0.1", host))
            with pytest.raises((SourceError, OSError), match=r"loopback, link-local or private|unreachable"):
                fetch(remote, tmp_path, private=False)  # type: ignore[arg-type]
        assert site.asked == []


def test_a_full_disk_is_told_before_the_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = SimpleNamespace(total=1 << 40, used=0, free=66 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with (
        file_site(files={"/m.bin": BODY}) as site,
        pytest.raises(SourceError, match="2 MiB are to come and 66 MiB are free"),
    ):
        fetch(site, tmp_path)
    assert site.fetched == []


class Listed(RemoteModel):
    """A source that lists what it is given and reads its names as bytes."""

    def __init__(self, *paths: str) -> None:
        self.paths = paths

    def files(self) -> list[RemoteFile]:
        return [RemoteFile(path=path, size_bytes=len(path), version="1") for path in self.paths]

    def read(self, file: RemoteFile, offset: int) -> Any:
        yield file.path[offset:].encode()


@pytest.mark.parametrize(
    "paths",
    [
        ("../x",), ("/etc/x",), ("a/../../x",), ("a\\..\\x",), ("",), (".",), ("a\nb",), ("a\0b",),
        ("a", "a"), ("a", "./a"), (),
    ],
)  # fmt: skip
def test_names_that_leave_the_folder_or_clash_are_refused(tmp_path: Path, paths: tuple[str, ...]) -> None:
    with pytest.raises(SourceError, match=r"files|name"):
        download(Listed(*paths), "x://y", tmp_path / "cache", lambda done, total: None)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.name != ".lock"]


def test_folders_are_downloaded_with_their_folders(tmp_path: Path) -> None:
    said: list[tuple[int, int | None]] = []
    folder = download(
        Listed("a", "b/c", "b/d/e"), "x://y", tmp_path, lambda done, total: said.append((done, total))
    )
    assert {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} == {
        "a", "b/c", "b/d/e",
    }  # fmt: skip
    assert said[-1] == (9, 9)


class Endless(Listed):
    """A source whose file has no end."""

    read_bytes = 0

    def read(self, file: RemoteFile, offset: int) -> Any:
        while True:
            self.read_bytes += 1000
            yield b"x" * 1000


def test_a_file_without_end_is_not_written_beyond_its_size(tmp_path: Path) -> None:
    source = Endless("a" * 100)
    with pytest.raises(SourceError, match="changed 3 times"):
        download(source, "x://y", tmp_path, lambda done, total: None)
    assert source.read_bytes == 3000


class Growing(Listed):
    """A source whose file is longer than it says."""

    def read(self, file: RemoteFile, offset: int) -> Any:
        yield b"x" * (len(file.path) + 1)


def test_a_file_longer_than_listed_has_changed(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="changed 3 times"):
        download(Growing("abc"), "x://y", tmp_path, lambda done, total: None)
    assert not partials(tmp_path)
    assert issubclass(SourceChangedError, Exception)
