"""A model's pool, whatever its clients and workers do: no job lost, none answered twice or for another."""

from __future__ import annotations

from typing import Any

import pytest
from frame.errors import CapacityError, ModelNotReadyError
from frame.policy.lifecycle import GroupState
from frame.pool.jobs import StreamBrokenError
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from tests.properties.pool_machine import Client, PoolMachine


class Pool(PoolMachine):
    """Clients, workers and time act in any order."""

    # --- clients --------------------------------------------------------------------------------

    @rule(priorities=st.lists(st.sampled_from([1, 3, 3]), min_size=1, max_size=6))
    def submit(self, priorities: list[int]) -> None:
        for priority in priorities:
            self.submit_one(priority)
        self.rig.loop.settle()

    def submit_one(self, priority: int) -> None:
        job = self.rig.job(priority=priority)
        body = b"".join(job.parts[0][1].segments)
        is_full = self.pool.queue_length >= self.pool.plan.queue_size
        self.clients[job.id] = Client(job, body)
        try:
            self.pool.submit(job)
        except ModelNotReadyError:
            assert self.pool.status != "READY"
            del self.clients[job.id]
        except CapacityError:
            assert is_full
            del self.clients[job.id]
        else:
            assert self.pool.status == "READY"
            assert not is_full

    @precondition(lambda self: any(client.is_waiting for client in self.clients.values()))
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        """A client goes away while it waits, as `ClientWatch` sees it."""
        client = self.pick(data, [client for client in self.clients.values() if client.is_waiting])
        client.has_left = True
        self.pool.cancel(client.job)
        client.job.answer.cancel()
        self.rig.loop.settle()

    def readers(self) -> list[Client]:
        return [
            client
            for client in self.clients.values()
            if not client.has_left
            and client.job.stream is not None
            and (client.taken < len(client.sent) or client.ended_with is not None)
        ]

    @precondition(lambda self: self.readers())
    @rule(data=st.data())
    def read(self, data: st.DataObject) -> None:
        """A client takes the next chunk, or sees the end."""
        client = self.pick(data, self.readers())
        stream = client.job.stream
        assert stream is not None
        reading = self.rig.loop.create_task(stream.next(5.0))
        self.rig.loop.settle()
        assert reading.done()
        if client.taken < len(client.sent):
            assert bytes(reading.result() or b"") == client.sent[client.taken]
            client.taken += 1
        elif client.ended_with:
            with pytest.raises(StreamBrokenError, match=client.ended_with):
                reading.result()
        else:
            assert reading.result() is None

    @precondition(lambda self: self.readers())
    @rule(data=st.data())
    def stop_reading(self, data: st.DataObject) -> None:
        """A client goes away in the middle of its stream."""
        client = self.pick(data, self.readers())
        client.has_left = True
        self.pool.cancel(client.job)
        assert client.job.stream is not None
        client.job.stream.close()
        self.rig.loop.settle()

    # --- workers --------------------------------------------------------------------------------

    @precondition(lambda self: any(group.state is GroupState.STARTING for group in self.rig.groups))
    @rule(
        data=st.data(),
        outcome=st.sampled_from(["loaded", "loaded", "loaded", "fewer slots", "died", "load_failed"]),
    )
    def load(self, data: st.DataObject, outcome: str) -> None:
        group = self.pick(data, [g for g in self.rig.groups if g.state is GroupState.STARTING])
        if outcome in {"died", "load_failed"}:
            group.reap(outcome, "load model: no such file")
        elif self.capacity or outcome == "fewer slots":
            group.load(slots=1, capacity=self.capacity)
        else:
            group.load(**self.loaded())
        self.rig.loop.settle()

    @rule(seconds=st.sampled_from([0.0, 0.5, 2.0]))
    def replace_dead_workers(self, seconds: float) -> None:
        """What ended is reaped, its replacement starts after a while and loads."""
        for group in self.rig.groups:
            if group.was_killed or group.drain_was_asked or (group.slots and not group.is_connected):
                self.reap(group)
        self.rig.loop.advance(seconds)
        self.load_all()

    @precondition(lambda self: self.open_jobs())
    @rule(data=st.data())
    def answer_one(self, data: st.DataObject) -> None:
        """A worker answers one job, with the end of its batch when it was the last."""
        group, batch, client = self.pick(data, self.open_jobs())
        self.answer(group, batch, [client])

    @precondition(lambda self: self.open_jobs() and not self.capacity)
    @rule(data=st.data())
    def answer_batch(self, data: st.DataObject) -> None:
        group, batch, _ = self.pick(data, self.open_jobs())
        self.answer(group, batch, [c for g, b, c in self.open_jobs() if g is group and b == batch])

    @rule()
    def notice_what_was_cancelled(self) -> None:
        self.pass_over_cancelled()

    @precondition(lambda self: self.open_jobs())
    @rule(data=st.data(), has_chunk=st.booleans(), is_error=st.booleans())
    def begin_stream(self, data: st.DataObject, has_chunk: bool, is_error: bool) -> None:
        group, _, client = self.pick(data, self.open_jobs())
        first = b"first of " + client.body if has_chunk else b""
        client.sent += [first] if first else []
        group.begin_stream(
            client.job.id,
            first,
            status=424 if is_error else 200,
            type_name="HandlerError" if is_error else "",
        )
        self.rig.loop.settle()
        assert client.job.answer.result().stream is client.job.stream

    @precondition(lambda self: any(g.credits[c.job.id] for g, c in self.open_streams()))
    @rule(data=st.data())
    def chunk(self, data: st.DataObject) -> None:
        group, client = self.pick(data, [(g, c) for g, c in self.open_streams() if g.credits[c.job.id]])
        client.sent.append(b"chunk %d of " % len(client.sent) + client.body)
        group.chunk(client.job.id, client.sent[-1])
        self.rig.loop.settle()

    @precondition(lambda self: self.open_streams())
    @rule(data=st.data(), error=st.sampled_from(["", "", "model broke"]))
    def end_stream(self, data: st.DataObject, error: str) -> None:
        group, client = self.pick(data, self.open_streams())
        client.ended_with = error
        group.end_stream(client.job.id, error)
        self.rig.loop.settle()

    # --- ends of workers ------------------------------------------------------------------------

    @precondition(lambda self: self.alive())
    @rule(data=st.data(), is_reaped=st.booleans())
    def die(self, data: st.DataObject, is_reaped: bool) -> None:
        """A worker dies; its process may be reaped later."""
        group = self.pick(data, [group for group in self.alive() if group.runs] or self.alive())
        group.disconnect()
        self.rig.loop.settle()
        if is_reaped:
            self.reap(group)

    @precondition(lambda self: self.alive())
    @rule(data=st.data(), seconds=st.sampled_from([0.0, 2.5]))
    def stop(self, data: st.DataObject, seconds: float) -> None:
        """A process does not run for a while: it answers no ping."""
        self.pick(data, self.alive()).is_stopped = True
        self.rig.loop.advance(seconds)

    @precondition(lambda self: any(group.is_stopped for group in self.alive()))
    @rule(data=st.data())
    def go_on(self, data: st.DataObject) -> None:
        group = self.pick(data, [group for group in self.alive() if group.is_stopped])
        group.is_stopped = False
        group.pong()
        self.rig.loop.settle()

    @precondition(lambda self: self.resizing())
    @rule(data=st.data(), is_refused=st.sampled_from([False, False, True]))
    def resize(self, data: st.DataObject, is_refused: bool) -> None:
        """A worker has the slots that it was asked for, or could not warm the last one."""
        group = self.pick(data, self.resizing())
        wanted = group.requested_slots
        if is_refused and wanted > 1:
            group.report_slots(wanted - 1, wanted=wanted - 1, error="no memory for a stream")
        else:
            group.report_slots(wanted)
        self.rig.loop.settle()

    @precondition(lambda self: not self.pool.leases and self.may_unload())
    @rule()
    def unload(self) -> None:
        """Another model needs the memory of one that nobody asks; its processes end soon or later."""
        unloading = self.rig.loop.create_task(self.pool.unload())
        self.rig.loop.settle()
        assert unloading.done() or self.rig.groups

    def may_unload(self) -> bool:
        return self.pool.plan.starts_on_demand or not self.pool.plan.min_workers

    # --- time -----------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([0.25, 0.5, 0.5, 1.0, 2.0, 12.0, 31.0]))
    def advance(self, seconds: float) -> None:
        self.rig.loop.advance(seconds)


TestPool = Pool.TestCase
TestPool.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


class SharedPool(Pool):
    """A model whose workers are threads of one copy: their number changes, and processes stand still."""

    @initialize(
        batch_size=st.integers(1, 2),
        workers=st.integers(0, 2),
        capacity=st.sampled_from([0, 0, 0, 2]),
        on_demand=st.booleans(),
    )
    def begin(self, **chosen: Any) -> None:
        fixed = {"delay_ms": 0, "queue_size": 8, "extra": 3, "slots": 3}
        self.start(**chosen, **fixed, retries=True, parallel=True, is_loaded=True, is_shared=True)

    @rule(count=st.integers(3, 6))
    def grow(self, count: int) -> None:
        """More requests than the workers take soon bring threads, which have their slots a little later."""
        self.submit([3] * count)
        self.rig.loop.advance(1.5)
        self.follow_resizes()

    @precondition(lambda self: self.alive() and self.pool.status == "READY")
    @rule()
    def fall_silent_between_batches(self) -> None:
        """A process stops while it runs nothing, and gets requests until it is given up."""
        self.answer_everything()
        for group in self.alive():
            group.is_stopped = True
        self.rig.loop.advance(4.5)
        for _ in range(2):
            self.submit_one(3)
        self.rig.loop.advance(9.0)


TestSharedPool = SharedPool.TestCase
TestSharedPool.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
