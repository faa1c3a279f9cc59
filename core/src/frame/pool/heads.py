"""Heads of messages as the router writes and reads them: msgspec and the wire's dataclasses."""

from __future__ import annotations

import msgspec

from frame.contract.signatures import TensorSpec
from frame.pool.devices import cut_visible
from frame.pool.jobs import Job
from frame.pool.settings import GroupSettings
from frame.wire.frames import MAX_FDS, Frame, WireError
from frame.wire.messages import (
    AnswerHead,
    AnswersHead,
    ChunkHead,
    EndHead,
    HelloHead,
    JobHead,
    Kind,
    LoadedHead,
    LoadFailedHead,
    LoadHead,
    SlotsReadyHead,
    SpecHead,
    StageHead,
)

encode = msgspec.json.Encoder().encode
_HEADS: dict[int, msgspec.json.Decoder[object]] = {
    kind: msgspec.json.Decoder(head)
    for kind, head in {
        Kind.HELLO: HelloHead,
        Kind.STAGE: StageHead,
        Kind.LOADED: LoadedHead,
        Kind.LOAD_FAILED: LoadFailedHead,
        Kind.SLOTS_READY: SlotsReadyHead,
        Kind.ANSWERS: AnswersHead,
        Kind.STREAM: AnswerHead,
        Kind.CHUNK: ChunkHead,
        Kind.END: EndHead,
    }.items()
}


def load_head(settings: GroupSettings, slots: int, max_slots: int) -> LoadHead:
    """Return what a worker of these settings must load, with so many slots now and at most."""
    options = type(settings.options)
    return LoadHead(
        engine_target=settings.engine.target,
        options_target=f"{options.__module__}:{options.__qualname__}",
        name=settings.name,
        version=settings.version,
        path=settings.path,
        model_file=settings.model_file,
        properties=dict(settings.properties),
        batch_size=settings.batch_size,
        devices=list(cut_visible(settings.devices, settings.server_environment)[0]),
        rank=0,
        world_size=1,
        threads=settings.threads,
        slots=slots,
        max_slots=max_slots,
        shares_model=settings.shares_model,
        padding=settings.padding.to_json() if settings.padding is not None else None,
    )


def decode_head(frame: Frame) -> object:
    """Return the head of a message from a worker as its dataclass.

    Raises:
        WireError: of an unknown kind, or not as the kind demands.
    """
    decoder = _HEADS.get(frame.kind)
    if decoder is None:
        raise WireError(f"unexpected message kind {frame.kind}")
    try:
        return decoder.decode(frame.head)
    except msgspec.MsgspecError as error:
        raise WireError(str(error)) from error


def specs_of(heads: list[SpecHead]) -> tuple[TensorSpec, ...]:
    """Return the tensor specs that a worker reported."""
    return tuple(
        TensorSpec(head.name, head.dtype, None if head.shape is None else tuple(head.shape)) for head in heads
    )


def job_head(job: Job, segments: list[bytes], descriptors: list[int]) -> JobHead:
    """Return the job's head; its parts are appended to the message's segments and descriptors."""
    parts: list[tuple[str, int, int]] = []
    for key, payload in job.parts:
        if payload.descriptor >= 0 and len(descriptors) < MAX_FDS:
            parts.append((key, payload.size_bytes, len(descriptors)))
            descriptors.append(payload.descriptor)
        else:
            parts.append((key, payload.size_bytes, -1))
            segments += payload.read_segments()
    return JobHead(job.id, job.request_id, job.properties, parts, job.codec)
