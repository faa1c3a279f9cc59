"""Where compiled steps are kept."""

from __future__ import annotations

from pathlib import Path

import pytest
from frame_python.handlers.compile_cache import default_root, folder_name, gather_facts, use


def test_the_root_is_named_or_below_the_users_cache() -> None:
    assert default_root({"FRAME_COMPILE_CACHE": "/c", "HOME": "/h"}) == Path("/c")
    assert default_root({"XDG_CACHE_HOME": "/x", "HOME": "/h"}) == Path("/x/frame/compiled")
    assert default_root({"HOME": "/h"}) == Path("/h/.cache/frame/compiled")


def test_other_versions_have_another_folder() -> None:
    facts = {"torch": "2.11", "device": "H100"}
    assert folder_name(facts) == folder_name(dict(reversed(facts.items())))
    assert folder_name(facts) != folder_name({**facts, "torch": "2.12"})
    assert {"torch", "device", "transformers"} <= set(gather_facts())


def test_the_folder_is_private_and_an_operators_setting_stays(tmp_path: Path) -> None:
    environ = {"TRITON_CACHE_DIR": "/elsewhere"}
    folder = use(tmp_path / "root", {"torch": "1"}, environ)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert environ == {"TRITON_CACHE_DIR": "/elsewhere", "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor")}
    assert use(tmp_path / "root", {"torch": "1"}, {}) == folder


def test_a_folder_that_others_may_write_to_is_refused(tmp_path: Path) -> None:
    folder = use(tmp_path, {"torch": "1"}, {})
    folder.chmod(0o777)
    with pytest.raises(PermissionError, match="FRAME_COMPILE_CACHE"):
        use(tmp_path, {"torch": "1"}, {})
