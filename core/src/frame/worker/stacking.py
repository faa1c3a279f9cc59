"""Run a batch of requests on a `TensorModel`: decode, stack what fits together, call, split, encode.

Invariants:
- Every request gets one result, in the batch's order, made of its own rows alone.
- One request's error is that request's error: what fails together is run again one by one.
- Decoding and encoding hold one lock per process, the model call does not.
"""

from __future__ import annotations

import importlib
import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from frame.contract.requests import Buffer, Part, Request, RequestError, Response
from frame.worker.answers import is_out_of_memory
from frame.worker.codecs.fitting import TEXT_DTYPES, Array, RequestTensors, fit, stacks
from frame.worker.codecs.images import ImageInput, decode_image, looks_like_image
from frame.worker.codecs.multipart import is_form
from frame.worker.lockstep import ENDS_ON_ERROR
from frame.worker.stats import BATCH_STATS, BatchStats

if TYPE_CHECKING:
    from frame.contract.models import TensorModel, Tensors
    from frame.contract.signatures import Signature, TensorSpec
    from frame.worker.padding import Lengths, Padder

_log = logging.getLogger(__name__)
_CODEC_LOCK = threading.Lock()
"""Two threads that decode at the same time only take turns on the GIL, and slow the one that computes."""


@dataclass(slots=True)
class _Job:
    """One request on its way through a batch; `result` is set once."""

    request: Request
    inputs: RequestTensors
    outputs: Tensors | None = None
    result: Response | RequestError | None = None


class _RowsError(Exception):
    """The outputs of a stacked batch cannot be split by rows."""


def predict_tensors(model: TensorModel, batch: Sequence[Request]) -> list[Response | RequestError]:
    """Answer each request alone; run together those of the same trailing shapes, dtypes and scalars.

    With `model.padder`, lengths that can be padded need not be the same.

    An image body becomes the model's image input when `model.image_input` says how; all other bodies are
    read by the codec that the request names.
    """
    stats = BATCH_STATS.get() or BatchStats()
    started = time.monotonic()
    with _CODEC_LOCK:
        jobs = [_decode(model, request) for request in batch]
    decoded = time.monotonic()
    for group in _groups(model, jobs):
        _run_group(model, group, stats)
    computed = time.monotonic()
    with _CODEC_LOCK:
        results = [_encode(model, job) for job in jobs]
    stats.decode += decoded - started
    stats.compute += computed - decoded
    stats.encode += time.monotonic() - computed
    return results


# --- decode and encode ----------------------------------------------------------------------------


def _decode(model: TensorModel, request: Request) -> _Job:
    try:
        return _Job(request, _read(model, request))
    except Exception as error:  # noqa: BLE001  # fault line: around one request
        return _Job(request, RequestTensors({}), result=_answer_of(error, "decode", request))


def _read(model: TensorModel, request: Request) -> RequestTensors:
    codec = importlib.import_module(request.codec)
    image: ImageInput | None = model.image_input
    body = _image_body(codec, request, image) if image is not None else None
    pixels = decode_image(body, image)[None] if image is not None and body is not None else None

    def decode(signature: Signature) -> RequestTensors:
        if image is not None and pixels is not None:
            return RequestTensors(fit({image.spec.name: pixels}, signature), has_batch_axis=False)
        decoded: Tensors = codec.decode(request.parts, request.properties, signature)
        return decoded if isinstance(decoded, RequestTensors) else fit(decoded, signature)

    return decode(model.signature) if model.padder is None else model.padder.read(decode)


def _image_body(codec: Any, request: Request, image: ImageInput) -> Buffer | None:
    """Return the bytes of the request's image, when it has one: the body, or a file of a form."""
    content_type = request.properties.get("content-type", "")
    if is_form(content_type):
        fields: Sequence[Part] = codec.decode(request.parts[-1:], request.properties, None)
        files = [field for field in fields if looks_like_image(field.data)]
        named = [field for field in files if field.key in (image.spec.name, "data")]
        return (named or files)[0].data if files else None
    body = request.parts[-1].data if request.parts else b""
    is_untyped = content_type in ("", "application/octet-stream")
    is_image = content_type.lower().startswith("image/") or (is_untyped and looks_like_image(body))
    return body if is_image else None


def _encode(model: TensorModel, job: _Job) -> Response | RequestError:
    if job.result is not None:
        return job.result
    assert job.outputs is not None
    try:
        codec = importlib.import_module(job.request.codec)
        outputs = job.inputs.answer(job.outputs)
        response: Response = codec.encode(outputs, job.request.properties, model.signature)
    except Exception as error:  # noqa: BLE001  # fault line: around one request
        return _answer_of(error, "encode", job.request)
    return response


def _answer_of(error: Exception, stage: str, request: Request) -> RequestError:
    """Return what a client is told of an error; what it is not told goes to the log."""
    if isinstance(error, RequestError):
        return error
    _log.error("request_failed stage=%s request=%s", stage, request.id, exc_info=error)
    if is_out_of_memory(error):
        return RequestError(507, "memory was not enough for this request", type_name="OutOfMemoryError")
    message = (
        f"the model failed on this request ({stage}: {type(error).__name__}); the server's log says more"
    )
    return RequestError(424, message, type_name="HandlerError")


# --- stack and split ------------------------------------------------------------------------------


def _groups(model: TensorModel, jobs: Sequence[_Job]) -> list[list[_Job]]:
    """Group the jobs that can run together, in the order of first arrival."""
    specs = model.signature.inputs
    may_stack = stacks(model.signature)
    groups: dict[object, list[_Job]] = {}
    for index, job in enumerate(jobs):
        if job.result is None:
            key = _stacking_key(job.inputs, specs, model.padder) if may_stack else None
            groups.setdefault(index if key is None else key, []).append(job)
    return list(groups.values())


def _stacking_key(
    inputs: RequestTensors, specs: Sequence[TensorSpec], padder: Padder | None
) -> tuple[object, ...] | None:
    """Return what requests that run together have in common; None for one that runs alone."""
    key: list[object] = []
    rows: set[int] = set()
    for spec in specs:
        array = inputs[spec.name]
        if array.ndim == 0:  # all rows share it
            key.append((array.dtype.str, array.item() if array.dtype.kind == "O" else array.tobytes()))
        else:
            rows.add(array.shape[0])
            shape = array.shape
            key.append((array.dtype.str, padder.shape_in_common(spec.name, shape) if padder else shape[1:]))
    return tuple(key) if len(rows) == 1 else None


def _row_count(inputs: RequestTensors) -> int:
    return next(int(array.shape[0]) for array in inputs.values() if array.ndim)


def _run_group(model: TensorModel, group: Sequence[_Job], stats: BatchStats) -> None:
    if len(group) == 1 or not _run_stacked(model, group, stats):
        for job in group:
            _run_alone(model, job, stats)


def _run_stacked(model: TensorModel, group: Sequence[_Job], stats: BatchStats) -> bool:
    """Run several jobs in one call; return false, with no job touched, when that does not work."""
    try:
        requests = [job.inputs for job in group]
        inputs, lengths = _stack(model.padder, requests)
        stats.calls += 1
        pieces = _split(_checked(model.forward(inputs)), [_row_count(request) for request in requests])
        if model.padder is not None:
            pieces = [model.padder.cut(*pair, lengths) for pair in zip(pieces, requests, strict=True)]
    except Exception as error:  # fault line: around a plugin; every job is run again alone
        if ENDS_ON_ERROR.get() and not isinstance(error, RequestError):
            raise
        _log.warning("batch_failed requests=%d error=%r: running them one by one", len(group), error)
        return False
    for job, piece in zip(group, pieces, strict=True):
        job.outputs = piece
    return True


def _run_alone(model: TensorModel, job: _Job, stats: BatchStats) -> None:
    try:
        inputs, lengths = _stack(model.padder, [job.inputs])
        stats.calls += 1
        outputs = _checked(model.forward(inputs))
        job.outputs = outputs if model.padder is None else model.padder.cut(outputs, job.inputs, lengths)
    except Exception as error:  # fault line: around a plugin
        if ENDS_ON_ERROR.get() and not isinstance(error, RequestError):
            raise
        job.result = _answer_of(error, "forward", job.request)


def _stack(padder: Padder | None, requests: Sequence[RequestTensors]) -> tuple[Tensors, Lengths]:
    """Return the inputs of one call, and to which lengths they were padded."""
    if padder is not None:
        lengths = padder.lengths(requests)
        return padder.stack(requests, lengths), lengths
    if len(requests) == 1:
        return dict(requests[0]), {}
    return {
        name: array if array.ndim == 0 else np.concatenate([request[name] for request in requests])
        for name, array in requests[0].items()
    }, {}


def _checked(outputs: Any) -> Tensors:
    if isinstance(outputs, dict) and all(isinstance(array, np.ndarray) for array in outputs.values()):
        return outputs
    message = f"forward returned {type(outputs).__name__}; expected a dict of numpy arrays by output name"
    raise TypeError(message)


def _split(outputs: Tensors, rows: Sequence[int]) -> list[Tensors]:
    """Cut outputs into views of each request's rows."""
    total = sum(rows)
    for name, array in outputs.items():
        if array.shape[:1] != (total,):
            message = f"output {name} has the shape {list(array.shape)} for {total} rows"
            raise _RowsError(message)
    ends = np.cumsum(rows).tolist()
    return [
        {name: array[end - count : end] for name, array in outputs.items()}
        for end, count in zip(ends, rows, strict=True)
    ]


# --- warm-up --------------------------------------------------------------------------------------


def warm_up_tensors(model: TensorModel) -> None:
    """Run `forward` once on one row of zeros, free dimensions 1, or as short as padding makes them.

    A refusal of that shape is not an error: a `RequestError`, or any failure but that of memory where the
    signature leaves more open than the number of rows. Models with inputs of unknown rank are not run.

    Raises:
        Exception: what `forward` raised; the load fails.
    """
    shapes = [spec.shape for spec in model.signature.inputs]
    known = [shape for shape in shapes if shape is not None]
    if len(known) < len(shapes):
        return
    try:
        _checked(model.forward({spec.name: _zeros(spec, model.padder) for spec in model.signature.inputs}))
    except Exception as error:
        is_guess = isinstance(error, RequestError) or any(-1 in shape[1:] for shape in known)
        if is_out_of_memory(error) or not is_guess:
            raise
        _log.info("warm_up_refused error=%r", error)


def _zeros(spec: TensorSpec, padder: Padder | None) -> Array:
    free = tuple(1 if size == -1 else size for size in spec.shape or ())
    shape = free if padder is None else padder.smallest(spec)
    if spec.dtype in TEXT_DTYPES:
        array = np.empty(shape, dtype=object)
        array.fill("" if spec.dtype == "str" else b"")
        return array
    return np.zeros(shape, dtype=spec.dtype or "float32")
