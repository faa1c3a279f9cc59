"""Options of the built-in transformers handler. Imports no framework."""

from __future__ import annotations

from dataclasses import dataclass, fields

from frame.api import option


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformersOptions:
    """Options that the built-in handler knows; those of an engine that serves it contain them.

    Names and defaults are DJL Serving's, but for `rolling_batch`, which is on unless it is disabled.
    """

    model_id: str | None = option(
        None, "A folder with a model of Hugging Face transformers. Default: the model folder itself."
    )
    task: str | None = option(
        None,
        "text-generation, text2text-generation, text-classification, token-classification, fill-mask, "
        "question-answering, feature-extraction or text-embedding. Default: from the model's architecture.",
    )
    dtype: str | None = option(
        None,
        "fp32, fp16, bf16 or int8. Default: bf16 on accelerators that have it, else fp16; fp32 on the CPU.",
    )
    max_tokens: int = option(
        1024, "Tokens of prompt and answer together; at most what the model was made for.", minimum=2
    )
    rolling_batch: str = option(
        "auto",
        "auto: requests join the running batch at the next token and leave at their own end. "
        "disable: a batch runs to its end as one, and answers are in the form of DJL Serving's DeepSpeed "
        "handler: a list, each text with its prompt. A batch_size above 1 disables it too.",
    )
    max_rolling_batch_size: int = option(32, "Sequences that run at once.", minimum=1)
    output_formatter: str | None = option(
        None, "json, jsonlines or sse: how an answer is sent to requests that do not say it."
    )
    tgi_compat: bool = option(False, "Answers as Hugging Face's text-generation-inference writes them.")
    enable_streaming: str = option("false", "true: stream unless a request says `stream: false`.")
    trust_remote_code: bool = option(False, "Run Python code that comes with the model's weights.")
    low_cpu_mem_usage: bool = option(True, "Passed to transformers, whose newer versions do it always.")


def transformers_options(options: object) -> TransformersOptions:
    """Return the built-in handler's part of an engine's options; what these lack has its default."""
    names = [item.name for item in fields(TransformersOptions)]
    return TransformersOptions(**{name: getattr(options, name) for name in names if hasattr(options, name)})
