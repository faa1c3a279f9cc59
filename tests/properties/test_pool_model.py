"""A model's pool, whatever its clients and workers do: no job lost, none answered twice or for another."""

from __future__ import annotations

import pytest
from frame.errors import CapacityError, ModelNotReadyError
from frame.policy.lifecycle import GroupState
from frame.pool.jobs import StreamBrokenError
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from tests.properties.pool_machine import Client, PoolMachine


class Pool(PoolMachine):
    """Clients, workers and time act in any order."""

    # --- clients --------------------------------------------------------------------------------

    @rule(priorities=st.lists(st.sampled_from([1, 3, 3]), min_size=1, max_size=4))
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
            group.load()
        self.rig.loop.settle()

    @rule(seconds=st.sampled_from([0.0, 0.5, 2.0]))
    def replace_dead_workers(self, seconds: float) -> None:
        """What ended is reaped, its replacement starts after a while and loads."""
        for group in self.rig.groups:
            if group.was_killed or (group.slots and not group.is_connected):
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

    # --- time -----------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([0.25, 0.5, 0.5, 1.0, 2.0, 8.0, 31.0]))
    def advance(self, seconds: float) -> None:
        self.rig.loop.advance(seconds)


TestPool = Pool.TestCase
TestPool.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
