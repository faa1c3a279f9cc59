"""The TensorFlow engine: sets TensorFlow up for its worker and loads SavedModels."""

from __future__ import annotations

import logging
import os
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from frame.api import Engine, EngineContext, ModelSpec

from frame_tf.options import TensorFlowOptions

if TYPE_CHECKING:
    from frame_tf.model import TensorFlowModel

_log = logging.getLogger(__name__)

_ERRORS_ONLY = "3"


class TensorFlowEngine(Engine):
    """One per worker process, on one device."""

    def __init__(self, context: EngineContext) -> None:
        super().__init__(context)
        if len(context.devices) != 1:
            devices = "+".join(context.devices)
            raise ValueError(f"a TensorFlow model runs on one device, not {devices} (load_on_devices)")
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", _ERRORS_ONLY)  # read at its import
        import tensorflow as tf

        self._tf: Any = tf
        self._device = _device_name(tf, context.devices[0])

    def load(self, spec: ModelSpec) -> TensorFlowModel:
        """Load the SavedModel that `spec.model_file` names: its saved_model.pb, or the folder with it."""
        from frame_tf.model import TensorFlowModel
        from frame_tf.savedmodel import load_signature

        options: TensorFlowOptions = spec.options
        folder = _folder(spec)
        _configure(self._tf, options, self.context.threads, self._device)
        tags = tuple(tag.strip() for tag in options.tags.split(",") if tag.strip())
        with self.slot_context():
            loaded, function = load_signature(folder, tags, options.signature_def)
        return TensorFlowModel(loaded, function, device=self._device, slots=self.context.slots)

    def slot_context(self) -> AbstractContextManager[None]:
        """Put a slot's operations on the group's device."""
        context: AbstractContextManager[None] = self._tf.device(self._device)
        return context


def _folder(spec: ModelSpec) -> Path:
    path = Path(spec.path) / (spec.model_file or "")
    folder = path.parent if path.suffix == ".pb" else path
    if not (folder / "saved_model.pb").is_file():
        raise ValueError(
            f"model {spec.name}: no saved_model.pb in {folder.name}/; a .keras or .h5 file becomes a "
            "SavedModel with keras.models.load_model(file).export(folder)"
        )
    return folder


def _device_name(tf: Any, device: str) -> str:
    if not device.startswith("gpu"):
        return "/CPU:0"
    if not tf.config.list_physical_devices("GPU"):
        raise ValueError(
            f"{device}: this TensorFlow ({tf.__version__}) sees no GPU; pip install frame-tf[gpu], "
            "or set load_on_devices=cpu"
        )
    return f"/GPU:{device.removeprefix('gpu') or 0}"


def _configure(tf: Any, options: TensorFlowOptions, threads: int, device: str) -> None:
    """Set what TensorFlow takes only before its first operation; later it keeps what it has."""
    intra = options.intra_op_num_threads or threads
    try:
        tf.config.threading.set_intra_op_parallelism_threads(intra)
        tf.config.threading.set_inter_op_parallelism_threads(options.inter_op_num_threads)
        gpus = tf.config.list_physical_devices("GPU")
        if device.startswith("/CPU"):
            tf.config.set_visible_devices([], "GPU")
        for gpu in gpus if device.startswith("/GPU") else []:
            tf.config.experimental.set_memory_growth(gpu, options.memory_growth)
    except RuntimeError:  # already initialized, by an earlier model of this process
        now = tf.config.threading.get_intra_op_parallelism_threads()
        level = logging.DEBUG if now == intra else logging.WARNING
        _log.log(level, "tensorflow_settings_kept intra_op_num_threads=%d wanted=%d", now, intra)
