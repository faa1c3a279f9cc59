"""What two looks at a store agree on is taken; digests tell every change of names, sizes and times."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from frame.cli import store_watch
from frame.cli.store_watch import Mark, Marks, StoreWatch, read_marks
from frame.config.files import load_server_config
from frame.config.settings import Source
from frame.errors import StoreError
from frame.store.startup import StartupEntry
from frame.store.urls import parse_model_url


def mark(name: str, digest: str) -> Mark:
    return Mark(StartupEntry(parse_model_url(f"/store/{name}"), Source("default", "")), digest)


def marks(**digests: str) -> Marks:
    return {(name, None): mark(name, digest) for name, digest in digests.items()}


class Noting(StoreWatch):
    """Notes what it would do."""

    done: list[tuple[str, ...]]

    async def _take(self, mark: Mark) -> None:
        self.done.append(("take", mark.key[0], mark.digest))
        if mark.digest == "wrong":
            raise StoreError("it is wrong")

    async def _drop(self, mark: Mark) -> None:
        self.done.append(("drop", mark.key[0]))


def follow(start: Marks, *looks: Marks | Exception) -> list[tuple[str, ...]]:
    """Return what is done at these looks; the last one goes on."""
    left = list(looks)

    async def scenario() -> list[tuple[str, ...]]:
        loop, finished = asyncio.get_running_loop(), asyncio.Event()
        last: list[Marks] = []

        def look() -> Marks:
            found = left[0] if len(left) == 1 else left.pop(0)
            if isinstance(found, Exception):
                raise found
            if len(left) == 1:
                last.append(found)
            if len(last) > 3:
                loop.call_soon_threadsafe(finished.set)
            return found

        unused: Any = None
        watch = Noting(
            marks=start, look=look, reader=unused, planner=unused, manager=unused, interval=0.001,
            drain_timeout=1.0, announce=unused,
        )  # fmt: skip
        watch.done = []
        task = asyncio.create_task(watch.run())
        async with asyncio.timeout(20):
            await finished.wait()
        task.cancel()
        return watch.done

    return asyncio.run(scenario())


def test_what_is_still_being_copied_is_not_taken() -> None:
    growing = [marks(m=str(size)) for size in range(10)]
    assert follow({}, *growing) == [("take", "m", "9")]


def test_what_does_not_change_is_left_alone() -> None:
    assert follow(marks(a="1", b="1"), marks(a="1", b="1")) == []


def test_changes_additions_and_removals_are_followed_each_once() -> None:
    found = follow(marks(a="1", b="1"), marks(a="2", c="1"), marks(a="2", c="1"))
    assert sorted(found) == [("drop", "b"), ("take", "a", "2"), ("take", "c", "1")]


def test_a_file_that_is_away_for_one_look_is_not_dropped() -> None:
    assert follow(marks(a="1"), marks(), marks(a="1")) == []
    assert follow(marks(a="1"), marks(), marks()) == [("drop", "a")]


def test_a_store_that_cannot_be_read_once_changes_nothing() -> None:
    assert follow(marks(a="1"), OSError("gone"), marks(a="1")) == []


def test_what_cannot_be_taken_is_not_tried_until_it_changes() -> None:
    found = follow({}, marks(a="wrong"), marks(a="wrong"), marks(a="wrong"), marks(a="right"))
    assert [item[2] for item in found] == ["wrong", "right"]


def test_a_fault_while_looking_changes_nothing() -> None:
    assert follow(marks(a="1"), RuntimeError("a fault"), marks(a="1")) == []


def test_a_store_that_is_away_says_nothing_of_its_models(tmp_path: Path) -> None:
    store = tmp_path / "store"
    (store / "a").mkdir(parents=True)
    (store / "a" / "x").touch()
    assert set(look(store)) == {("a", None)}
    store.rename(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="is no folder"):
        look(store)


def test_names_that_are_no_text_are_no_trouble(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    Path(os.fsdecode(bytes(tmp_path / "a") + b"/caf\xe9")).touch()
    (tmp_path / "a" / "link").symlink_to(os.fsdecode(b"/nowhere/caf\xe9"))
    assert look(tmp_path) == look(tmp_path)


def test_a_folder_that_becomes_an_archive_is_the_same_model(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").touch()
    before = look(tmp_path)
    (tmp_path / "a.zip").touch()
    assert look(tmp_path) == before  # the first of the two counts
    (tmp_path / "a" / "x").unlink()
    (tmp_path / "a").rmdir()
    after = look(tmp_path)
    assert set(after) == set(before)
    assert after != before


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "a" / "new").write_text(""),
        lambda folder: (folder / "a" / "x").write_text("longer"),
        lambda folder: os.utime(folder / "a" / "x", ns=(1, 1)),
        lambda folder: (folder / "a" / "x").rename(folder / "a" / "y"),
        lambda folder: (folder / "a" / "deep" / "z").unlink(),
    ],
)
def test_a_digest_tells_each_change(tmp_path: Path, change: Callable[[Path], object]) -> None:
    (tmp_path / "a" / "deep").mkdir(parents=True)
    for name in ("x", "deep/z"):
        (tmp_path / "a" / name).write_text("text")
    before = look(tmp_path)
    assert look(tmp_path) == before
    change(tmp_path)
    assert look(tmp_path) != before


def test_what_workers_put_into_the_folder_is_no_change(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "model.py").write_text("")
    before = look(tmp_path)
    (tmp_path / "a" / "__pycache__").mkdir()
    (tmp_path / "a" / "__pycache__" / "model.pyc").write_text("")
    assert look(tmp_path) == before


def test_links_to_nowhere_and_in_circles_end_and_a_link_to_another_file_is_a_change(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "nowhere").symlink_to("/there/is/nothing")
    for name in ("circle", "another", "third"):
        (tmp_path / "a" / name).symlink_to(tmp_path / "a")
    before = look(tmp_path)
    assert look(tmp_path) == before
    (tmp_path / "a" / "nowhere").unlink()
    (tmp_path / "a" / "nowhere").symlink_to("/there/is/nothing/else")
    assert look(tmp_path) != before


def test_a_model_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").write_text(name)
    (tmp_path / "store" / "a").symlink_to(tmp_path / "one")
    before = look(tmp_path / "store")
    (tmp_path / "one" / "x").write_text("changed")
    changed = look(tmp_path / "store")
    assert changed != before
    (tmp_path / "store" / "a").unlink()
    (tmp_path / "store" / "a").symlink_to(tmp_path / "two")
    assert look(tmp_path / "store") not in (before, changed)


def look(store: Path, models: Sequence[str] = ()) -> Marks:
    config = load_server_config(None, {"model_store": str(store)}, {})
    assert store_watch.model_name("x") == "x"
    return read_marks(config, models, ())
