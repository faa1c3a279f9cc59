"""A rank that is not 0: makes the calls of the model that rank 0 makes, in the same order; answers nobody."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import cast

from frame.contract.models import Model, SequenceModel, TensorModel
from frame.contract.requests import Request, RequestError, ResponseStream
from frame.wire.records import ENDED, NOTHING_FAILED, UNANSWERED, UNKNOWN, Act, Record, outcome_of
from frame.worker.lockstep import ENDS_ON_ERROR, DivergenceError
from frame.worker.payloads import Payload, Payloads
from frame.worker.seeds import seed_for
from frame.worker.sequences import digest_of
from frame.worker.slots import build_request
from frame.worker.stats import BATCH_STATS, BatchStats
from frame.worker.streams import close_stream

_log = logging.getLogger(__name__)


class Follower:
    """Follows records in the thread that calls `run`; any thread may read `progress`.

    Invariants: no payload stays after the record that used or dropped it; streams are of the last batch only.
    What the model raises leaves `run`, but for a `RequestError` where rank 0 lets it fail one request alone:
    rank 0 is told of it, and compares.
    """

    def __init__(
        self,
        model: Model,
        payloads: Payloads,
        receive: Callable[[], Record],
        reply: Callable[[int], None],
        *,
        stall_timeout: float,
    ) -> None:
        """Prepare to follow.

        Args:
            receive: blocks and returns rank 0's next record.
            reply: tells rank 0 what came of a record.
            stall_timeout: seconds to wait for a payload that a record names.
        """
        self.progress = 0
        self._model = model
        self._payloads = payloads
        self._receive = receive
        self._reply = reply
        self._stall_timeout = stall_timeout
        self._streams: dict[int, ResponseStream] = {}
        self._acts: dict[Act, Callable[[Record], int]] = {
            Act.RUN: self._run,
            Act.DROP: self._drop,
            Act.ADVANCE: self._advance,
            Act.CLOSE: self._close,
            Act.ADMIT: self._admit,
            Act.STEP: self._step,
            Act.CANCEL: self._cancel,
            Act.VERIFY: self._verify,
        }

    def run(self) -> None:
        """Do what the records say, until one says to stop.

        Raises:
            TimeoutError: a payload did not come.
            DivergenceError: this rank's model did something else than rank 0's.
            Exception: of the model, of `receive`, or of `reply`.
        """
        while (record := self._receive()).act is not Act.STOP:
            self.progress += 1
            outcome = self._acts[record.act](record)
            self.progress += 1
            if record.act not in UNANSWERED:
                self._reply(outcome)
        self.progress += 2  # as rank 0 counts its STOP
        self._close_streams()

    # --- batches ------------------------------------------------------------------------------

    def _run(self, record: Record) -> int:
        self._close_streams()
        payloads = self._payloads.take_batch(record.number, self._stall_timeout)
        requests = [self._request(item, seed_for(record.seed, item.position)) for item in payloads]
        BATCH_STATS.set(BatchStats())
        ENDS_ON_ERROR.set(True)
        # Only streams and failures are of use here; None, which says nothing of either, is right too.
        results = cast("Sequence[object] | None", self._model.predict(requests))
        for item, result in zip(payloads, results or (), strict=False):
            if isinstance(result, ResponseStream):
                self._streams[item.head.id] = result
        if results is None:
            return UNKNOWN
        pairs = zip(payloads, results, strict=False)
        return outcome_of([item.head.id for item, result in pairs if isinstance(result, RequestError)])

    def _drop(self, record: Record) -> int:
        self._payloads.take_job(record.number, self._stall_timeout)
        return NOTHING_FAILED

    def _advance(self, record: Record) -> int:
        stream = self._streams.get(record.number)
        if stream is None:  # rank 0's may come without this rank's help; if not, the group stalls and ends
            _log.debug("stream_missing job=%d", record.number)
            return UNKNOWN
        try:
            return ENDED if next(stream.chunks, None) is None else NOTHING_FAILED
        except RequestError:
            _log.exception("stream_failed job=%d", record.number)
            return outcome_of([record.number])

    def _close(self, record: Record) -> int:
        stream = self._streams.pop(record.number, None)
        if stream is not None:
            close_stream(record.number, stream)
        return NOTHING_FAILED

    def _close_streams(self) -> None:
        """Close streams that rank 0 does not have."""
        while self._streams:
            close_stream(*self._streams.popitem())

    # --- sequences ----------------------------------------------------------------------------

    def _admit(self, record: Record) -> int:
        payload = self._payloads.take_job(record.number, self._stall_timeout)
        request = self._request(payload, record.seed)
        try:
            self._sequences().admit(record.number, request)
        except RequestError as error:
            _log.info("job_refused job=%d message=%r", record.number, error.message)
            return outcome_of([record.number])
        return NOTHING_FAILED

    def _step(self, record: Record) -> int:
        self._verify(record)
        self._sequences().step()
        return NOTHING_FAILED

    def _verify(self, record: Record) -> int:
        digest = digest_of(self._sequences())
        if digest != record.digest:
            message = f"the last step chose other tokens than rank 0's: {digest:#x}, not {record.digest:#x}"
            raise DivergenceError(message)
        return NOTHING_FAILED

    def _cancel(self, record: Record) -> int:
        self._sequences().cancel(record.number)
        return NOTHING_FAILED

    # --- both ---------------------------------------------------------------------------------

    def _sequences(self) -> SequenceModel:
        if not isinstance(self._model, SequenceModel):
            raise DivergenceError(
                f"rank 0's model is a SequenceModel, this rank's {type(self._model).__name__}"
            )
        return self._model

    def _request(self, payload: Payload, seed: int) -> Request:
        splits_forms = not isinstance(self._model, TensorModel)
        request = build_request(payload.head, payload.parts, seed=seed, splits_forms=splits_forms)
        if isinstance(request, RequestError):  # rank 0 drops what it cannot read
            raise DivergenceError(f"job {payload.head.id} cannot be read here: {request.message}")
        return request
