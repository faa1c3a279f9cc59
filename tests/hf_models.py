"""Small randomly initialised transformers models in folders, with tokenizers trained on a few sentences."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

_WORDS = (
    "the capital of France is Paris and that of Germany is Berlin",
    "once upon a time there was a little model that could count: 1 2 3 4 5 6 7 8 9 10",
    "a server answers many requests at the same time, each with its own words",
    "naïve café, Zürich, こんにちは, 你好, привет, 👋🌍",
)
VOCABULARY = 384


def save_byte_tokenizer(folder: Path) -> Any:
    """Save a byte-level BPE tokenizer (every text can be encoded); `</s>` ends a text and pads."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_WORDS, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", bos_token="</s>")
    fast.save_pretrained(folder)
    return fast


def save_word_tokenizer(folder: Path, texts: Iterable[str] = _WORDS) -> Any:
    """Save a WordPiece tokenizer as BERT's, with [CLS], [SEP], [MASK], [PAD] and [UNK]."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=VOCABULARY, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")],
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]",
        sep_token="[SEP]", mask_token="[MASK]",
    )  # fmt: skip
    fast.save_pretrained(folder)
    return fast


def _save(model: Any, folder: Path, seed: int) -> Path:
    """Give weights that make the tokens depend on the text, and save.

    The usual initialisation is so small that every text ends the same way.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 2 / parameter.shape[1] ** 0.5, generator=generator)
    model.eval().save_pretrained(folder)
    return folder


def make_gptj(folder: Path, *, seed: int = 0, **sizes: Any) -> Path:
    """Save a GPT-J: 2 layers of 128, 4 heads, unless `sizes` (its configuration's keys) say otherwise."""
    from transformers import GPTJConfig, GPTJForCausalLM

    save_byte_tokenizer(folder)
    defaults = {"n_embd": 128, "n_layer": 2, "n_head": 4, "rotary_dim": 16, "n_positions": 512}
    config = GPTJConfig(
        vocab_size=VOCABULARY, bos_token_id=0, eos_token_id=0, pad_token_id=0, **{**defaults, **sizes}
    )
    return _save(GPTJForCausalLM(config), folder, seed)


def make_llama(folder: Path, *, seed: int = 0, **sizes: Any) -> Path:
    """Save a Llama: 2 layers of 128, 4 heads on 2 of keys and values, unless `sizes` say otherwise."""
    from transformers import LlamaConfig, LlamaForCausalLM

    save_byte_tokenizer(folder)
    defaults = {
        "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 512,
    }  # fmt: skip
    config = LlamaConfig(
        vocab_size=VOCABULARY, bos_token_id=0, eos_token_id=0, pad_token_id=0, **{**defaults, **sizes}
    )
    return _save(LlamaForCausalLM(config), folder, seed)


def make_bloom(folder: Path, *, seed: int = 0, **sizes: Any) -> Path:
    """Save a BLOOM, whose ALiBi needs another mask than slots have."""
    from transformers import BloomConfig, BloomForCausalLM

    save_byte_tokenizer(folder)
    config = BloomConfig(
        vocab_size=VOCABULARY, bos_token_id=0, eos_token_id=0, pad_token_id=0,
        **{"hidden_size": 128, "n_layer": 2, "n_head": 4, **sizes},
    )  # fmt: skip
    return _save(BloomForCausalLM(config), folder, seed)


def make_t5(folder: Path, *, seed: int = 0, **sizes: Any) -> Path:
    """Save a T5, an encoder and a decoder."""
    from transformers import T5Config, T5ForConditionalGeneration

    save_byte_tokenizer(folder)
    defaults = {"d_model": 128, "d_kv": 32, "d_ff": 256, "num_layers": 2, "num_heads": 4}
    config = T5Config(
        vocab_size=VOCABULARY, eos_token_id=0, pad_token_id=0, decoder_start_token_id=0,
        **{**defaults, **sizes},
    )  # fmt: skip
    return _save(T5ForConditionalGeneration(config), folder, seed)


def make_bert(
    folder: Path, *, head: str = "ForSequenceClassification", labels: int = 3, seed: int = 0, **sizes: Any
) -> Path:
    """Save a BERT with a head (`ForMaskedLM`, `ForQuestionAnswering`, `Model` for none, …)."""
    import transformers

    save_word_tokenizer(folder)
    defaults = {
        "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4,
        "max_position_embeddings": 128,
    }  # fmt: skip
    count = 2 if head == "ForQuestionAnswering" else labels  # the begin and the end of an answer
    config = transformers.BertConfig(vocab_size=VOCABULARY, num_labels=count, **{**defaults, **sizes})
    return _save(getattr(transformers, f"Bert{head}")(config), folder, seed)
