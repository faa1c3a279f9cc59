"""The Python engine's `option.*` keys."""

from __future__ import annotations

from dataclasses import dataclass

from frame.api import option

from frame_python.handlers.options import TransformersOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class PythonOptions(TransformersOptions):
    """Options of `engine=python`, those of the built-in handler for transformers among them.

    Keys that are not listed reach the handler as strings.

    Handlers see every option, listed or not, among the properties of their first call.
    """

    entryPoint: str | None = option(
        None,
        "What to run: a file of the model folder, an absolute path, or an importable module. "
        "Default: the variable DJL_ENTRY_POINT, then <model name>.py, model.py, or what fits the files.",
        aliases=("entrypoint", "entry_point"),
    )
    handler: str = option("handle", "The function of the entry point that answers requests.")
    async_mode: bool | None = option(
        None,
        "Run the handler on an asyncio loop, several requests at once. Default: when it is `async def`.",
    )
    reset: str | None = option(
        None,
        "A function of the entry point, called without arguments before every request, each run alone.",
    )
    tensor_parallel_degree: str | None = option(
        None,
        "Number of devices one copy uses, or `max`; passed to the handler. Default: TENSOR_PARALLEL_DEGREE.",
    )
    pipeline_parallel_degree: int = option(1, "Passed to the handler.", minimum=1)
    mpi_mode: bool = option(
        False, "DJL Serving's: true runs the handler in several ranks, by engine=DeepSpeed."
    )
    model_format: str = option(
        "skops",
        "Format of a scikit-learn model.",
        choices=("skops", "joblib", "pickle", "cloudpickle"),
    )
    trust_insecure_model_files: bool = option(
        False, "Allow scikit-learn and XGBoost formats that run code when loaded (all but skops, json, ubj)."
    )
    skops_trusted_types: str | None = option(None, "Types that a skops file may hold, with commas.")
    default_accept: str | None = option(
        None,
        "The answer's type when a request names none, for scikit-learn and XGBoost; else application/json.",
    )
    enable_stateful_sessions: bool = option(
        False, "Passed to the handler, which uses djl_python.SessionManager."
    )
    sessions_expiration: int = option(1200, "Seconds that a session lives.", minimum=1)
    sessions_path: str | None = option(None, "Folder of the sessions' files. Default: shared memory.")
