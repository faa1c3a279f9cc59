"""The environment of worker processes: built from an allow-list, so that no secret of the server gets in."""

from __future__ import annotations

from collections.abc import Mapping

ALLOWED_NAMES = frozenset({
    "HOME", "HOSTNAME", "LANG", "LANGUAGE", "LD_LIBRARY_PATH", "LOGNAME", "NUMBA_CACHE_DIR", "PATH", "SHELL",
    "SSL_CERT_DIR", "SSL_CERT_FILE", "TMP", "TEMP", "TMPDIR", "TZ", "USER", "XDG_CACHE_HOME", "XDG_DATA_HOME",
    "HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TENSOR_PARALLEL_DEGREE",
    "PIPELINE_PARALLEL_DEGREE", "MASTER_ADDR", "TOKENIZERS_PARALLELISM", "CC", "CXX", "DJL_ENTRY_POINT",
    "FRAME_COMPILE_CACHE",
})  # fmt: skip
ALLOWED_PREFIXES = (
    "LC_", "OMP_", "KMP_", "MKL_", "OPENBLAS_", "CUDA_", "CUDNN_", "NVIDIA_", "NCCL_", "NVSHMEM_", "ROCR_",
    "HIP_", "TF_", "TORCH_", "TORCHINDUCTOR_", "PYTORCH_", "TRITON_CACHE", "TRANSFORMERS_", "KERAS_", "XLA_",
    "ORT_", "MALLOC_", "OPTION_", "GLOO_", "DS_", "OMPI_MCA_", "PRTE_MCA_", "PMIX_MCA_", "HYDRA_", "UCX_",
    "FI_",
)  # fmt: skip
SECRET_WORDS = ("TOKEN=", "_TOKEN_", "SECRET", "PASSWORD", "CREDENTIAL", "ACCESS_KEY", "API_KEY")


def worker_environment(
    environ: Mapping[str, str], *, bundle: str, extra: Mapping[str, str], threads: int
) -> dict[str, str]:
    """Return the whole environment of a worker.

    Args:
        environ: the server's own environment.
        bundle: the folder for PYTHONPATH.
        extra: `option.env` of the model; wins over everything but PYTHONPATH.
        threads: for OMP_NUM_THREADS where nobody set it.
    """
    allowed = {name: value for name, value in environ.items() if is_allowed(name)}
    allowed.setdefault("OMP_NUM_THREADS", str(threads))
    allowed.update(extra)
    allowed["PYTHONPATH"] = ":".join(filter(None, (bundle, extra.get("PYTHONPATH", ""))))
    allowed["PYTHONUNBUFFERED"] = "1"
    allowed["PYTHONNOUSERSITE"] = "1"
    return allowed


def is_allowed(name: str) -> bool:
    """Tell whether a variable of the server may reach its workers."""
    if any(word in name.upper() + "=" for word in SECRET_WORDS):
        return False
    return name in ALLOWED_NAMES or name.startswith(ALLOWED_PREFIXES)
