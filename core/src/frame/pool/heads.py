"""Heads of messages as the router writes and reads them: msgspec and the wire's dataclasses."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from frame.contract.signatures import Signature, TensorSpec
from frame.pool.devices import cut_visible
from frame.pool.jobs import Job
from frame.pool.settings import GroupSettings
from frame.wire.frames import MAX_FDS, Frame, WireError, frame_header
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
    PongHead,
    RunHead,
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
        Kind.PONG: PongHead,
        Kind.ANSWERS: AnswersHead,
        Kind.STREAM: AnswerHead,
        Kind.CHUNK: ChunkHead,
        Kind.END: EndHead,
    }.items()
}


def load_head(
    settings: GroupSettings, slots: int, max_slots: int, hello: HelloHead, lead: HelloHead
) -> LoadHead:
    """Return what a rank of these settings must load, with so many slots now and at most.

    Args:
        hello: the rank's own.
        lead: rank 0's, which says where the ranks meet.
    """
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
        rank=hello.rank,
        world_size=settings.ranks,
        threads=settings.threads,
        slots=slots,
        max_slots=max_slots,
        shares_model=settings.shares_model,
        padding=settings.padding.to_json() if settings.padding is not None else None,
        link=lead.link,
        master_port=lead.master_port,
        stall_timeout=settings.stall_timeout,
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


def signature_of(loaded: LoadedHead) -> Signature | None:
    """Return the signature that a worker reported, if its model has one."""
    if loaded.inputs is None or loaded.outputs is None:
        return None
    return Signature(specs_of(loaded.inputs), specs_of(loaded.outputs))


def message(kind: Kind, head: object) -> list[bytes]:
    """Return a message without parts."""
    return [frame_header(kind, encode(head), 0)]


def run_message(
    batch: int, jobs: Sequence[Job], most_descriptors: int
) -> tuple[list[bytes | bytearray | memoryview], list[int]]:
    """Return the segments and the descriptors of a message that lets a worker run jobs as one batch.

    Args:
        most_descriptors: parts beyond so many travel as bytes.
    """
    segments: list[bytes | bytearray | memoryview] = [b""]
    descriptors: list[int] = []
    heads = [job_head(job, segments, descriptors, most_descriptors) for job in jobs]
    head = encode(RunHead(batch, heads))
    segments[0] = frame_header(Kind.RUN, head, sum(map(len, segments)), len(descriptors))
    return segments, descriptors


def job_head(
    job: Job,
    segments: list[bytes | bytearray | memoryview],
    descriptors: list[int],
    most_descriptors: int = MAX_FDS,
) -> JobHead:
    """Return the job's head; its parts are appended to the message's segments and descriptors."""
    parts: list[tuple[str, int, int]] = []
    for key, payload in job.parts:
        if payload.descriptor >= 0 and len(descriptors) < most_descriptors:
            parts.append((key, payload.size_bytes, len(descriptors)))
            descriptors.append(payload.descriptor)
        else:
            parts.append((key, payload.size_bytes, -1))
            segments += payload.read_segments()
    return JobHead(job.id, job.request_id, job.properties, parts, job.codec)
