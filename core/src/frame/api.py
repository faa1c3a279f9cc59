"""What an engine plugin implements and is given: the plugin contract, version 1.

Runs in workers on Python >= 3.10 and imports nothing outside the standard library. Names in `__all__` are a
promise.
"""

from frame.contract import API_VERSION
from frame.contract.engines import (
    Claim,
    EngineSpec,
    FileEntry,
    FolderListing,
    LaunchCommand,
    LaunchRequest,
    NoOptions,
    Preflight,
    RanksRequest,
    by_claims,
    launch_single,
    launch_spawn,
    one_rank,
    option,
)
from frame.contract.models import (
    Chunk,
    Done,
    Engine,
    EngineContext,
    Failed,
    JobId,
    Model,
    ModelSpec,
    SequenceModel,
    TensorModel,
    Tensors,
)
from frame.contract.properties import Properties
from frame.contract.protocols import Protocol, Route
from frame.contract.requests import Buffer, Part, Request, RequestError, Response, ResponseStream
from frame.contract.signatures import Signature, TensorSpec
from frame.contract.sources import (
    ModelSource,
    RemoteFile,
    RemoteModel,
    SourceChangedError,
    SourceContext,
    SourceError,
)

__all__ = [
    "API_VERSION",
    "Buffer",
    "Chunk",
    "Claim",
    "Done",
    "Engine",
    "EngineContext",
    "EngineSpec",
    "Failed",
    "FileEntry",
    "FolderListing",
    "JobId",
    "LaunchCommand",
    "LaunchRequest",
    "Model",
    "ModelSource",
    "ModelSpec",
    "NoOptions",
    "Part",
    "Preflight",
    "Properties",
    "Protocol",
    "RanksRequest",
    "RemoteFile",
    "RemoteModel",
    "Request",
    "RequestError",
    "Response",
    "ResponseStream",
    "Route",
    "SequenceModel",
    "Signature",
    "SourceChangedError",
    "SourceContext",
    "SourceError",
    "TensorModel",
    "TensorSpec",
    "Tensors",
    "by_claims",
    "launch_single",
    "launch_spawn",
    "one_rank",
    "option",
]
