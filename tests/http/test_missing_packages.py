"""What a server says when a package that it may do without is absent."""

from __future__ import annotations

import subprocess
import sys

import pytest

_SCRIPT = """
import asyncio, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == sys.argv[1]:
            raise ModuleNotFoundError(name, name=name)

sys.meta_path.insert(0, Blocker())
from frame.errors import ConfigError
from frame.config.forms import parse_address
from frame.http.servers import serve

try:
    asyncio.run(
        serve(None, address=parse_address(sys.argv[2]), server=sys.argv[3], tls=None,
              stop=asyncio.Event(), ready=print, graceful_timeout=1.0, limits=None)
    )
except ConfigError as error:
    print("refused:", error)
"""


@pytest.mark.parametrize(
    ("package", "address", "server", "remedy"),
    [
        ("uvicorn", "http://127.0.0.1:0", "uvicorn", "pip install frame-core[uvicorn]"),
        ("httptools", "http://127.0.0.1:0", "uvicorn", "pip install frame-core[uvicorn]"),
        ("cryptography", "https://127.0.0.1:0", "hypercorn", "pip install frame-core[tls]"),
    ],
)
def test_missing_package_is_named_with_its_remedy(
    package: str, address: str, server: str, remedy: str
) -> None:
    command = [sys.executable, "-c", _SCRIPT, package, address, server]
    done = subprocess.run(command, capture_output=True, text=True, timeout=25, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("refused:")
    assert remedy in done.stdout


def test_servers_bring_no_numpy_and_no_framework_into_the_router() -> None:
    script = """
import sys
import frame.http.control, frame.http.servers, frame.http.hypercorn_lane, frame.http.uvicorn_lane
print(sorted({"numpy", "torch", "tensorflow", "onnxruntime"} & sys.modules.keys()))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=25, check=True
    )
    assert done.stdout.strip() == "[]"
