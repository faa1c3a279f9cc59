"""What a model is for, from the name of its architecture. Imports no framework."""

from __future__ import annotations

from collections.abc import Sequence

TASKS = {
    "text-generation": "AutoModelForCausalLM",
    "text2text-generation": "AutoModelForSeq2SeqLM",
    "text-classification": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
    "fill-mask": "AutoModelForMaskedLM",
    "question-answering": "AutoModelForQuestionAnswering",
    "feature-extraction": "AutoModel",
    "text-embedding": "AutoModel",
}
"""Task -> the class of transformers that loads its models."""

_SUFFIXES = {
    "ForCausalLM": "text-generation",
    "LMHeadModel": "text-generation",
    "ForConditionalGeneration": "text2text-generation",
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "ForMaskedLM": "fill-mask",
    "ForQuestionAnswering": "question-answering",
    "Model": "text-embedding",
}
"""DJL Serving's suffixes (djl_python, huggingface), and `Model`: an encoder without a head."""


def infer_task(architectures: Sequence[str] | None) -> str:
    """Return the task of the first architecture of a configuration.

    Raises:
        ValueError: it says nothing, or nothing known; names the option to set.
    """
    name = architectures[0] if architectures else ""
    for suffix, task in _SUFFIXES.items():
        if name.endswith(suffix):
            return task
    what = f"the architecture {name} has no known task" if name else "config.json names no architecture"
    raise ValueError(f"{what}; set option.task to one of {', '.join(TASKS)}")
