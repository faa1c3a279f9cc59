"""GPT-J with random weights: full size on a GPU, tiny on a CPU; in memory, or as a folder to serve."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, GPTJConfig, PreTrainedModel

SEED = 20
TINY = {"vocab_size": 640, "n_embd": 128, "n_layer": 2, "n_head": 4, "rotary_dim": 16, "n_positions": 512}


def make_model(*, tiny: bool = False) -> PreTrainedModel:
    """Return the model on its device, float16 (tiny: float32 on the CPU), the same each time."""
    device = "cpu" if tiny else "cuda"
    config = GPTJConfig(
        **(TINY if tiny else {}), bos_token_id=0, eos_token_id=0
    )  # GPTJConfig's default is 6B
    torch.manual_seed(SEED)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32 if tiny else torch.float16)
    return model.eval()


def weight_bytes(model: PreTrainedModel) -> int:
    """Return the bytes that one step at batch 1 has to read: all weights but the embedding's table."""
    table = model.get_input_embeddings().weight
    return (
        sum(p.numel() * p.element_size() for p in model.parameters()) - table.numel() * table.element_size()
    )


def prompts(count: int, length: int, vocabulary: int) -> list[list[int]]:
    """Return `count` prompts of `length` random tokens, none of them the end token."""
    generator = torch.Generator().manual_seed(SEED)
    return torch.randint(1, vocabulary, (count, length), generator=generator).tolist()


def save_folder(model: PreTrainedModel, folder: Path) -> None:
    """Write weights, configuration and a tokenizer whose token N is the word `tN`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    model.save_pretrained(folder)
    size = model.config.vocab_size
    words = {"<|endoftext|>": 0, **{f"t{i}": i for i in range(1, size)}}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<|endoftext|>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.Fuse()
    end = "<|endoftext|>"
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=end, bos_token=end, unk_token=end, pad_token=end
    ).save_pretrained(folder)
