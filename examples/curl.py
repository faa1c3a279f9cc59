"""Print ready-to-paste curl lines for the example store, one per request; they run in the repository's root.

Usage: python examples/curl.py [--url http://127.0.0.1:8080]
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence

from cases import HERE, Case, read_cases

URL = "http://127.0.0.1:8080"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a comment and a line for each case."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", default=URL, help="where the server listens (default: %(default)s)")
    url = parser.parse_args(arguments).url
    for case in read_cases():
        print(f"# {case.model} ({case.engine}): {case.says}")
        print(line(case, url) + "\n")


def line(case: Case, url: str = URL) -> str:
    """Return the curl command of one case."""
    command = [
        *("curl", "-sS", f"{url}/predictions/{case.model}"),
        *("-H", f"Content-Type: {case.content_type}", "-H", f"Accept: {case.accept}"),
        *("--data-binary", f"@{case.request_file.relative_to(HERE.parent)}"),
    ]
    return shlex.join(command) + (f" | {case.show}" if case.show else "")


if __name__ == "__main__":
    main()
