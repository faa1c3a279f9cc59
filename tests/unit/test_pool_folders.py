"""Folders of workers say whose they are, and those of routers that were killed are removed."""

from __future__ import annotations

import os
import subprocess
import sys

from frame.pool.folders import make_folder, remove_left_behind


def gone_pid() -> int:
    """Return the number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_folder_is_private_and_names_its_router():
    folder = make_folder()
    try:
        assert folder.name.startswith(f"frame-{os.getpid()}-")
        assert folder.stat().st_mode & 0o777 == 0o700
    finally:
        folder.rmdir()


def test_only_folders_of_routers_that_are_gone_are_removed(tmp_path):
    gone, alive = gone_pid(), os.getpid()
    names = [f"frame-{gone}-a", f"frame-{alive}-b", f"frame-{gone}x-c", "frame-", "other"]
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "path").symlink_to(tmp_path)
    (tmp_path / f"frame-{gone}-file").touch()
    (tmp_path / f"frame-{gone}-link").symlink_to(tmp_path / "other")
    assert remove_left_behind(tmp_path) == 1
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {*names[1:], f"frame-{gone}-file", f"frame-{gone}-link"}
