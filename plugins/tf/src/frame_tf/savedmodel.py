"""Loads SavedModels, those of Keras 2 included, and says what is wrong with the ones it cannot load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow.python.saved_model import load_v1_in_v2, loader_impl

_INTERNAL = "__saved_model_init_op"
_RE_SAVE = (
    "save it with Keras: model.export(folder), or with tf.saved_model.save(model, folder, signatures=...)"
)


def load_signature(folder: Path, tags: tuple[str, ...], name: str) -> tuple[Any, Any]:
    """Return the loaded object, which the caller must keep alive, and its signature called `name`.

    Raises:
        ValueError: the folder, the tags or the name do not fit; says which exist and what to do.
    """
    chosen = _choose_tags(folder, tags)
    loaded = _load(folder, chosen)
    signatures = {key: value for key, value in loaded.signatures.items() if key != _INTERNAL}
    if name not in signatures:
        present = ", ".join(sorted(signatures)) or "none"
        remedy = "set option.signature_def to one of them" if signatures else _RE_SAVE
        raise ValueError(
            f"{folder.name}: no signature {name!r} in the SavedModel; present: {present}; {remedy}"
        )
    return loaded, signatures[name]


def _choose_tags(folder: Path, tags: tuple[str, ...]) -> list[str]:
    """Return the tags of the graph to load: those given, else those of the only graph, else `serve`."""
    try:
        parsed = loader_impl.parse_saved_model(str(folder))
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{folder.name}: saved_model.pb cannot be read; copy the folder again") from error
    graphs = [sorted(graph.meta_info_def.tags) for graph in parsed.meta_graphs]
    wanted = sorted(tags) if tags else graphs[0] if len(graphs) == 1 else [tf.saved_model.SERVING]
    if wanted not in graphs:
        present = "; ".join(",".join(found) for found in graphs)
        raise ValueError(f"option.tags: no graph is tagged {','.join(wanted)}; the SavedModel has {present}")
    return wanted


def _load(folder: Path, tags: list[str]) -> Any:
    try:
        return _load_objects_or_graph(str(folder), tags)
    except FileNotFoundError as error:
        raise ValueError(f"{folder.name}: files of variables/ are missing; copy the whole folder") from error
    except (AttributeError, ValueError, KeyError, tf.errors.OpError) as error:
        reason = f"TensorFlow {tf.__version__} cannot load it: {_first_line(error)}"
        raise ValueError(f"{folder.name}: {reason}") from error


def _load_objects_or_graph(folder: str, tags: list[str]) -> Any:
    try:
        return tf.saved_model.load(folder, tags=tags)
    except AttributeError:
        # A Keras 2 model saved with its optimizer: without tf-keras its objects come back as plain ones,
        # which lack add_slot. TensorFlow 1's loader takes the signatures alone, which is what is served.
        return load_v1_in_v2.load(folder, tags)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0]
