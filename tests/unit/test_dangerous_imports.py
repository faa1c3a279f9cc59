"""Which modules may read what can run code, and which may connect to other machines: no others do."""

from __future__ import annotations

import ast
from pathlib import Path

import frame

ROOT = Path(frame.__file__).parents[3]

# What may read data that can run code: each says itself what it reads.
TRUSTED_READERS = {
    "frame/config/workflows.py": "reads YAML by safe_load alone",
    "frame_python/options.py": "names the formats of the handler below",
    "djl_python/session_manager.py": "values of this server's own sessions, in its private folder",
    "djl_python/sklearn_handler.py": "a model that its author vouches for",
    "frame_torchscript/archives.py": "catches an error's class",
    "frame_torchscript/traced.py": "an unpickler with a table of the few names that it takes",
}
_RUNS_CODE = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "yaml", "jsonpickle"}
_CONNECTS = {
    "urllib.request",
    "http.client",
    "requests",
    "httpx",
    "httpcore",
    "aiohttp",
    "boto3",
    "urllib3",
    "ftplib",
}


def _sources() -> dict[str, ast.Module]:
    files = [*(ROOT / "core/src").rglob("*.py"), *(ROOT / "plugins").glob("*/src/**/*.py")]
    return {
        str(path.relative_to(path.parents[len(path.parts) - path.parts.index("src") - 2])): ast.parse(
            path.read_text()
        )
        for path in files
    }


def _imported(tree: ast.Module) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{name.name}" for name in node.names}
    return found


def test_no_module_reads_what_can_run_code() -> None:
    """Objects came over sockets, in recordings and in settings as pickles or unsafe YAML, and ran."""
    sources = _sources()
    assert len(sources) > 200
    readers = {name for name, tree in sources.items() if _imported(tree) & _RUNS_CODE}
    named = {name for name, tree in sources.items() if _calls_by_name(tree, _RUNS_CODE)}
    assert readers | named == set(TRUSTED_READERS)
    for name, tree in sources.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                given = {item.arg: item.value for item in node.keywords}
                if node.func.attr == "load" and ast.unparse(node.func.value) == "torch":
                    assert ast.unparse(given["weights_only"]) == "True", name
                if ast.unparse(node.func.value) == "yaml":
                    assert node.func.attr == "safe_load", name
                if "allow_pickle" in given:
                    assert ast.unparse(given["allow_pickle"]) == "False", name


def _calls_by_name(tree: ast.Module, modules: set[str]) -> bool:
    """Tell whether a function is given the name of such a module, as `import_module` is."""
    return any(
        isinstance(node, ast.Call)
        and any(isinstance(item, ast.Constant) and item.value in modules for item in ast.walk(node))
        for node in ast.walk(tree)
    )


def test_only_sources_connect_to_other_machines() -> None:
    """A prediction's fields were urls, which the server fetched, also from addresses that are nobody's."""
    allowed = {"frame/cli/explain.py", "frame/cli/measuring.py"}  # clients of a server, run by hand
    found = {name for name, tree in _sources().items() if _imported(tree) & _CONNECTS}
    assert {name for name in found if not name.startswith("frame/sources/")} == allowed
