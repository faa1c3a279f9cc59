"""A model's file is run as it is now, whatever was compiled of it before."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from frame_python.modules import import_file


def test_a_file_changed_within_the_same_second_is_run_as_it_is_now(tmp_path: Path) -> None:
    file = tmp_path / "a_model_of_this_test.py"
    for value in ("1", "2"):
        file.write_text(f"value = {value}\n")
        os.utime(file, (1, 1))
        module = import_file(str(tmp_path), file.name)
        assert module.value == int(value)
        del sys.modules[module.__name__]
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
