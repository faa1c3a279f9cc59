"""From a folder of Hugging Face transformers to a model and its tokenizer on a device."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from frame_python.handlers.options import TransformersOptions
from frame_python.handlers.tasks import TASKS, infer_task

Prepare = Callable[["Transformer"], Any]
"""Given what was loaded, returns the model to run: sharded, with other kernels, quantized, or as it is."""

_DTYPES = {
    "fp32": torch.float32, "float32": torch.float32, "fp16": torch.float16, "float16": torch.float16,
    "half": torch.float16, "bf16": torch.bfloat16, "bfloat16": torch.bfloat16,
}  # fmt: skip
_WEIGHTS = ("*.safetensors", "pytorch_model*.bin", "*.gguf")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "vocab.txt", "*.model")
_LENGTH_KEYS = ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length")


@dataclass(frozen=True, slots=True, kw_only=True)
class Transformer:
    """A loaded model.

    Attributes:
        model: in `eval()`, on `device`.
        tokenizer: with a padding token; pads on the left to generate, else on the right.
        folder: where it came from.
        dtype: of its floating point weights.
        max_tokens: of prompt and answer, within what the model was made for.
    """

    model: Any
    tokenizer: Any
    task: str
    folder: Path
    device: torch.device
    dtype: torch.dtype
    max_tokens: int


def model_folder(options: TransformersOptions, path: str) -> Path:
    """Return the folder with the weights: `option.model_id`, relative to the model folder, or that itself.

    Raises:
        ValueError: there is no such folder, or no model in it.
    """
    folder = Path(path, options.model_id).resolve() if options.model_id else Path(path)
    if not folder.is_dir():
        raise ValueError(
            f"option.model_id={options.model_id}: no such folder; nothing is downloaded: save the model into "
            "a folder (model.save_pretrained and tokenizer.save_pretrained) and name that"
        )
    gguf = sorted(folder.glob("*.gguf"))
    if not (folder / "config.json").is_file() and not gguf:
        raise ValueError(f"{folder}: no config.json and no *.gguf: not a folder of a transformers model")
    if not any(any(folder.glob(pattern)) for pattern in _WEIGHTS):
        raise ValueError(f"{folder}: no weights ({', '.join(_WEIGHTS)})")
    return folder


def choose_dtype(name: str | None, device: torch.device) -> torch.dtype:
    """Return the dtype of the weights, by DJL Serving's rule.

    Raises:
        ValueError: `option.dtype` is unknown, or not for this device.
    """
    if name is None:
        if device.type == "cpu":
            return torch.float32
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    if name == "int8":
        raise ValueError(
            "option.dtype=int8: needs the DeepSpeed engine on an accelerator; here: fp32, bf16 or fp16"
        )
    if name not in _DTYPES:
        raise ValueError(f"option.dtype={name}: expected fp32, fp16, bf16 or int8")
    if device.type == "cpu" and _DTYPES[name] is torch.float16:
        raise ValueError(f"option.dtype={name}: not on the CPU; use fp32 or bf16")
    return _DTYPES[name]


def choose_max_tokens(options: TransformersOptions, config: Any, *, is_set: bool) -> int:
    """Return the most tokens of prompt and answer.

    Args:
        is_set: whether the model's owner wrote `option.max_tokens`, who then must hear that it is too much.

    Raises:
        ValueError: more than the model has positions for.
    """
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    found = [getattr(text, key, None) for key in _LENGTH_KEYS]
    most = min((value for value in found if isinstance(value, int) and value > 0), default=None)
    if most is None or options.max_tokens <= most:
        return options.max_tokens
    if is_set:
        raise ValueError(f"option.max_tokens={options.max_tokens}: the model was made for {most} at most")
    return most


def torch_device(name: str) -> torch.device:
    """Return the device of a name such as `cpu` or `gpu0`."""
    return torch.device("cpu" if name == "cpu" else f"cuda:{name.removeprefix('gpu')}")


def load_transformer(
    options: TransformersOptions,
    path: str,
    device: torch.device,
    *,
    is_max_tokens_set: bool = False,
    prepare: Prepare | None = None,
) -> Transformer:
    """Load configuration, tokenizer and weights.

    Args:
        path: the model folder.
        prepare: called at the end; what it returns is run.

    Raises:
        ValueError: something is missing or does not fit; says what and which option. ImportError, OSError and
            what a model's own code raises pass through.
    """
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"{device}: this torch ({torch.__version__}) sees no CUDA device; install a CUDA build, "
            "or set load_on_devices=cpu"
        )
    folder = model_folder(options, path)
    gguf = _gguf_file(folder)
    source = {"gguf_file": gguf.name} if gguf else {}
    config = _load_config(folder, source, options)
    # GGUF holds language models, and names no architecture of transformers.
    task = options.task or ("text-generation" if gguf else infer_task(config.architectures))
    if task not in TASKS:
        raise ValueError(f"option.task={task}: expected one of {', '.join(TASKS)}")
    dtype = choose_dtype(options.dtype, device)
    tokenizer = load_tokenizer(folder, source, options)
    # An answer follows the last token of every row; encoders count positions from the first.
    tokenizer.padding_side = "left" if task == "text-generation" else "right"
    model = _load_weights(folder, source, options, task, dtype).eval().to(device)
    loaded = Transformer(
        model=model,
        tokenizer=tokenizer,
        task=task,
        folder=folder,
        device=device,
        dtype=dtype,
        max_tokens=choose_max_tokens(options, config, is_set=is_max_tokens_set),
    )
    return loaded if prepare is None else replace(loaded, model=prepare(loaded))


def load_tokenizer(folder: Path, source: dict[str, str], options: TransformersOptions) -> Any:
    """Return the tokenizer of a folder: it pads with its end token when it has no other.

    Raises:
        ValueError: the folder has none.
    """
    from transformers import AutoTokenizer

    if not source and not any(any(folder.glob(pattern)) for pattern in _TOKENIZER_FILES):
        raise ValueError(
            f"{folder}: no tokenizer ({', '.join(_TOKENIZER_FILES)}): save it there with "
            "tokenizer.save_pretrained(folder)"
        )
    tokenizer = AutoTokenizer.from_pretrained(
        folder, local_files_only=True, trust_remote_code=options.trust_remote_code, **source
    )
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise ValueError(f"{folder}: the tokenizer has no padding and no end token; set pad_token in it")
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _load_config(folder: Path, source: dict[str, str], options: TransformersOptions) -> Any:
    from transformers import AutoConfig

    if not source and not options.trust_remote_code:
        parsed = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if "auto_map" in parsed and "model_type" not in parsed:
            raise ValueError(f"{folder}: the model brings its own code; set option.trust_remote_code=true")
    return AutoConfig.from_pretrained(
        folder, local_files_only=True, trust_remote_code=options.trust_remote_code, **source
    )


def _load_weights(
    folder: Path, source: dict[str, str], options: TransformersOptions, task: str, dtype: torch.dtype
) -> Any:
    import transformers

    kind = getattr(transformers, TASKS[task])
    return kind.from_pretrained(
        folder, dtype=dtype, local_files_only=True, trust_remote_code=options.trust_remote_code, **source
    )


def _gguf_file(folder: Path) -> Path | None:
    """Return the folder's GGUF file, unless it has weights in transformers' own format.

    Raises:
        ValueError: there are several.
    """
    if (folder / "config.json").is_file() and any(folder.glob("*.safetensors")):
        return None
    found = sorted(folder.glob("*.gguf"))
    if len(found) > 1:
        names = ", ".join(file.name for file in found)
        raise ValueError(f"{folder}: several GGUF files ({names}); keep one")
    return found[0] if found else None
