"""What is known of a pool from outside, and what always holds of it, whatever its clients and workers do."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from frame.policy.lifecycle import GroupState
from frame.pool.jobs import Job
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant

from tests.unit.pool_plans import plan
from tests.unit.pool_rig import FakeGroup, PoolRig

PREDICT_TIMEOUT = 30.0


@dataclass(slots=True, eq=False)
class Client:
    """What a client did and saw."""

    job: Job
    body: bytes
    blamed: int = 0
    runs: int = 0
    has_left: bool = False
    sent: list[bytes] = field(default_factory=list)
    taken: int = 0
    ended_with: str | None = None

    @property
    def is_waiting(self) -> bool:
        return not self.has_left and not self.job.answer.done()


class PoolMachine(RuleBasedStateMachine):
    """A pool, its clients and its workers; looked at after each thing that happens."""

    @initialize(
        batch_size=st.integers(1, 3),
        delay_ms=st.sampled_from([0, 500]),
        queue_size=st.sampled_from([2, 6]),
        workers=st.sampled_from([0, 1, 1, 2, 3]),
        extra=st.sampled_from([0, 0, 1, 3]),
        slots=st.integers(1, 2),
        retries=st.sampled_from([True, True, False]),
        parallel=st.booleans(),
        capacity=st.sampled_from([0, 0, 3]),
        is_loaded=st.sampled_from([True, True, True, False]),
        is_shared=st.booleans(),
        on_demand=st.sampled_from([True, False, False]),
    )
    def begin(self, **chosen: Any) -> None:
        self.start(**chosen)

    def start(
        self, *, batch_size, delay_ms, queue_size, workers, extra, slots, retries, parallel, capacity,
        is_loaded, is_shared, on_demand,
    ) -> None:  # fmt: skip
        """Start a pool; its groups are loaded if it says so."""
        self.capacity = capacity
        self.is_shared = is_shared and not capacity
        text = f"""
            batch_size={batch_size}
            max_batch_delay={delay_ms}
            job_queue_size={queue_size}
            minWorkers={workers}
            maxWorkers={max(1, workers + extra)}
            max_idle_time=5
            option.slots_per_group={slots}
            option.predict_timeout={PREDICT_TIMEOUT}
            option.drain_time=2
            option.retry_on_crash={str(retries).lower()}
            option.parallel_loading={str(parallel).lower()}
            load_on_demand={str(on_demand).lower()}
        """
        self.rig = PoolRig(plan(text))
        self.pool = self.rig.pool
        self.rig.on_run = self.check_run
        self.clients: dict[int, Client] = {}
        self.is_closed = False
        if is_loaded:
            self.load_all()

    def load_all(self) -> None:
        self.rig.load_all(**self.loaded())

    def loaded(self) -> dict[str, Any]:
        """Return what a copy says when it has loaded."""
        slots = 1 if self.capacity else None
        return {"slots": slots, "capacity": self.capacity, "concurrency": 4 if self.is_shared else 0}

    # --- what is known without asking the pool --------------------------------------------------

    def pick(self, data: st.DataObject, items: list):
        return data.draw(st.sampled_from(items))

    def alive(self) -> list[FakeGroup]:
        return [group for group in self.rig.groups if group.is_connected]

    def open_jobs(self) -> list[tuple[FakeGroup, int, Client]]:
        """Jobs inside a slot whose stream has not begun and that are not cancelled, with group and batch."""
        return [
            (group, batch, self.clients[job])
            for group in self.alive()
            for batch in group.running()
            for job in group.runs[batch]
            if job not in group.streaming and job not in group.cancelled
        ]

    def open_streams(self) -> list[tuple[FakeGroup, Client]]:
        return [
            (group, self.clients[job])
            for group in self.alive()
            for batch in group.running()
            for job in group.runs[batch]
            if job in group.streaming and job not in group.cancelled
        ]

    def check_run(self, group: FakeGroup, jobs: list[int]) -> None:
        """Look at what a worker is given: within its limits, somebody's, and a suspect alone."""
        assert group.state is GroupState.READY
        limits = self.pool.plan.batching
        assert 1 <= len(jobs) <= (1 if self.capacity else limits.batch_size)
        assert len(group.runs) <= (self.capacity or group.slots + 1)
        for job in jobs:
            client = self.clients[job]
            client.runs += 1
            assert client.is_waiting
            assert group.bodies[job] == client.body
        inside = [job for run in group.runs.values() for job in run]
        if any(self.clients[job].blamed for job in inside):
            assert len(inside) == 1, "a suspect must run alone"

    # --- steps that several rules take ---------------------------------------------------------

    def resizing(self) -> list[FakeGroup]:
        """Groups that were asked for other slots and have not said that they have them."""
        alive = (group for group in self.alive() if group.resizes)
        return [group for group in alive if group.slots != group.requested_slots]

    def follow_resizes(self) -> None:
        """Workers have the slots that they were asked for."""
        for group in self.resizing():
            group.report_slots(group.requested_slots)
        self.rig.loop.settle()

    def answer(self, group: FakeGroup, batch: int, clients: list[Client]) -> None:
        ids = {client.job.id for client in clients}
        left = [job for job in group.runs[batch] if job not in ids and job not in group.cancelled]
        group.answer(
            batch, {client.job.id: b"answer to " + client.body for client in clients}, is_end=not left
        )
        self.rig.loop.settle()
        for client in clients:
            assert client.has_left or client.job.answer.done()

    def answer_everything(self) -> None:
        """Workers end all that they run."""
        for group, client in self.open_streams():
            client.ended_with = ""
            group.end_stream(client.job.id)
        while found := self.open_jobs():
            group, batch, client = found[0]
            self.answer(group, batch, [client])
        self.pass_over_cancelled()

    def pass_over_cancelled(self) -> None:
        """Workers notice what was cancelled; a batch with nothing else ends."""
        for group in self.alive():
            group.pass_over_cancelled()
            for batch in group.running():
                if not group.runs[batch]:
                    group.answer(batch, {}, is_end=True)
        self.rig.loop.settle()

    def reap(self, group: FakeGroup) -> None:
        """A process is gone: what it ran is run again, alone, or answered with why not."""
        inside = {batch: [self.clients[job] for job in jobs] for batch, jobs in group.runs.items()}
        started, hung = set(group.running()), set(group.hung_batches)
        end = group.reap()
        is_hang = bool(hung) or end.kind in {"hung", "overdue"}  # the process was there: what hung did it
        for batch, clients in inside.items():
            is_blamed = end.kind != "drained" and batch in (started & hung if is_hang else started)
            for client in clients:
                client.blamed += is_blamed and client.is_waiting
                if client.job.stream is not None and client.ended_with is None:
                    client.ended_with = "the worker ended"
        self.rig.loop.settle()
        for client in (client for clients in inside.values() for client in clients):
            self.check_fate(client)

    def check_fate(self, client: Client) -> None:
        """A job of a dead group waits or runs again, or was answered for a reason."""
        if client.has_left or client.job.stream is not None:
            assert client.job not in self.pool.open_jobs
        elif client.blamed >= 2 or (client.blamed and not self.pool.plan.group.retry_on_crash):
            assert client.job.answer.result().status == 503
            assert client.job.answer.result().type_name in {"WorkerDiedError", "PredictTimeoutError"}
        elif not client.job.answer.done():
            assert client.job in self.pool.open_jobs
        else:
            timed_out = client.job.answer.result().type_name == "PredictTimeoutError"
            assert timed_out or self.pool.status == "FAILED"

    # --- what always holds ----------------------------------------------------------------------

    @invariant()
    def every_waiting_job_is_in_one_place(self) -> None:
        waiting = {client.job.id for client in self.clients.values() if client.is_waiting}
        queued = [job.id for job in self.pool._waiting]
        inside = [
            job.id
            for group in self.pool.groups.values()
            for batch in group.batches.values()
            for job in batch.jobs.values()
            if job in self.pool.open_jobs and job.stream is None
        ]
        assert sorted(queued + inside) == sorted(waiting)

    @invariant()
    def only_deaths_of_groups_that_ran_it_are_a_jobs(self) -> None:
        for client in self.clients.values():
            if client.is_waiting:
                assert client.job.deaths == client.blamed

    @invariant()
    def an_answer_is_the_jobs_own(self) -> None:
        for client in self.clients.values():
            if client.job.answer.done() and not client.has_left:
                answer = client.job.answer.result()
                if answer.status == 200 and answer.stream is None:
                    assert answer.body == b"answer to " + client.body

    @invariant()
    def every_end_was_counted_once(self) -> None:
        ended = [client for client in self.clients.values() if client.job not in self.pool.open_jobs]
        assert sum(self.pool.metrics.requests.values()) == len(ended)

    @invariant()
    def an_ended_job_holds_no_bytes(self) -> None:
        for client in self.clients.values():
            if client.job not in self.pool.open_jobs:
                assert client.job.parts[0][1].segments == []

    @invariant()
    def nobody_waits_longer_than_allowed(self) -> None:
        for client in self.clients.values():
            assert not client.is_waiting or self.rig.clock.now <= client.job.deadline + 0.1

    @invariant()
    def no_slot_idles_while_a_batch_is_due(self) -> None:
        groups = [group for group in self.pool.groups.values() if group.takes_work]
        suspects = {job.id for job in self.pool._waiting if job.deaths}
        has_running_suspect = any(
            job.deaths
            for g in self.pool.groups.values()
            for b in g.batches.values()
            for job in b.jobs.values()
        )
        if suspects and not has_running_suspect:
            assert all(group.batches for group in groups), "an idle group, and a suspect waits"
        reserved = min(len(groups), 1) if suspects or has_running_suspect else 0
        free = sum(group.sent < (group.capacity or group.slots) for group in groups) - reserved
        due = self.pool._waiting._batcher.next_due(self.rig.clock.now)
        if free > 0 and due is not None and not self.is_closed:
            assert due > self.rig.clock.now
            assert not self.capacity
            assert self.pool._due_timer is not None
            assert self.pool._due_timer.when() <= due

    @invariant()
    def a_model_that_sleeps_has_neither_workers_nor_requests(self) -> None:
        if self.pool.is_asleep:
            assert len(self.pool._waiting) == 0
            assert not [group for group in self.rig.groups if group.takes_work]

    @invariant()
    def a_failed_model_lets_nobody_wait(self) -> None:
        if self.pool.status == "FAILED":
            assert len(self.pool._waiting) == 0
            assert self.pool.reason

    # --- the end --------------------------------------------------------------------------------

    def recover(self) -> None:
        """One round of well-behaved workers."""
        for group in self.rig.groups:
            group.is_stopped = False
            if group.was_killed or group.drain_was_asked or (group.slots and not group.is_connected):
                group.reap()
        self.rig.loop.settle()
        for group in self.rig.groups:
            if group.state is GroupState.STARTING:
                group.load(**self.loaded())
        self.rig.loop.settle()
        self.follow_resizes()
        self.answer_everything()

    def teardown(self) -> None:
        """Liveness: with workers that behave again everything ends and the floor of workers is back."""
        if not hasattr(self, "pool"):
            return
        try:
            self.check_liveness()
        finally:
            self.rig.dispose()

    def check_liveness(self) -> None:
        for _ in range(60):
            self.recover()
            self.rig.loop.advance(10.0)
            workers = sum(group.plan_slots for group in self.alive() if group.takes_work)
            floor = 0 if self.pool.is_asleep else self.pool.plan.min_workers
            has_floor = workers >= min(1 if self.capacity else 3, floor)
            is_ready = has_floor and self.pool.status == "READY"
            if is_ready and not any(client.is_waiting for client in self.clients.values()):
                break
        assert not [client.job.id for client in self.clients.values() if client.is_waiting]
        assert has_floor
        assert self.pool.status == "READY"
        self.recover()
        self.is_closed = True
        self.rig.close()
        assert not self.pool.open_jobs
        assert not self.pool.groups
