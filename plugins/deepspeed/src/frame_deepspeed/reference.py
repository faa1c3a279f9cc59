"""What `frame profile --reference` runs: `python -m frame_deepspeed.reference FOLDER OPTIONS`.

Saves what a model says before it is cut, on a machine that can run the whole of it: on a GPU if it fits
there, else in main memory. A self-check finds it by the digest of weights, tokenizer and library versions.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, replace
from pathlib import Path

from frame_deepspeed.options import DeepSpeedOptions
from frame_deepspeed.placing import fits_whole, weights_bytes


def command(folder: str, options: DeepSpeedOptions) -> tuple[str, ...]:
    """Return the arguments, after the interpreter, that save the reference of a model folder."""
    return "-m", "frame_deepspeed.reference", folder, json.dumps(asdict(options))


def save(folder: str, options: DeepSpeedOptions) -> Path:
    """Take the reference and return its file.

    Raises:
        ValueError: the model generates no text, or an option or a file is wrong.
    """
    import torch
    from frame_python.handlers.loading import choose_dtype, load_transformer, model_folder
    from frame_python.handlers.options import transformers_options
    from frame_python.handlers.references import take_reference

    from frame_deepspeed.checking import reference_path

    wanted = transformers_options(options)
    # The type that it is served with, which a processor would choose otherwise.
    served = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = None if wanted.dtype == "int8" else wanted.dtype
    name = str(choose_dtype(dtype, served)).removeprefix("torch.")
    fits = served.type == "cuda" and fits_whole(
        weights_bytes(model_folder(wanted, folder)), torch.cuda.mem_get_info()[0]
    )
    device = served if fits else torch.device("cpu")
    loaded = load_transformer(replace(wanted, dtype=name), folder, device)
    if loaded.task != "text-generation":
        raise ValueError(f"option.task={loaded.task}: references are for text-generation")
    found = take_reference(loaded.model, device=device, has_time=lambda: True)
    assert found is not None  # there was time
    path = reference_path(loaded.folder, name)
    found.save(path)
    return path


def main(arguments: Sequence[str]) -> int:
    """Save, and print where."""
    folder, options = arguments
    try:
        with redirect_stdout(sys.stderr):  # DeepSpeed logs there
            path = save(folder, DeepSpeedOptions(**json.loads(options)))
    except ValueError as error:
        print(error, file=sys.stderr)  # noqa: T201  # the command shows the last line
        return 1
    print(path)  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
