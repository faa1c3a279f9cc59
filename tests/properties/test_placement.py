"""Starts never take more memory than there is, models in use stay, and room is made where it can be."""

from __future__ import annotations

from dataclasses import dataclass, field

from frame.policy.placement import (
    Admit,
    InFlight,
    Loaded,
    Memory,
    Need,
    Refuse,
    StartRequest,
    Unload,
    WaitForStarts,
    decide_start,
    share_threads,
)
from frame.testing import FakeClock
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

TOTAL = {"cpu": 1000, "gpu0": 600, "gpu1": 600}
DEVICES = (("cpu",), ("cpu",), ("cpu",), ("gpu0",), ("gpu1",), ("gpu0", "gpu1"))
RESERVED = 50


@dataclass
class Model:
    """A model of the world: unloaded, starting, loaded or leaving."""

    key: str
    devices: tuple[str, ...]
    expected: dict[str, int]
    may_unload: bool
    held: dict[str, int] = field(default_factory=dict)
    starting: InFlight | None = None
    is_leaving: bool = False
    waiting: int = 0
    leases: int = 0
    last_used: float = 0.0

    @property
    def is_idle(self) -> bool:
        return bool(self.held) and self.may_unload and not self.leases and not self.is_leaving


class Placing(RuleBasedStateMachine):
    """Models on demand and other programs share three places; requests wait for the load they caused."""

    @initialize(data=st.data())
    def begin(self, data: st.DataObject) -> None:
        self.clock = FakeClock(1.0)
        self.outsiders = dict.fromkeys(TOTAL, 0)
        self.models: list[Model] = []
        for index in range(data.draw(st.integers(2, 7))):
            devices = data.draw(st.sampled_from(DEVICES))
            megabytes = st.sampled_from([40, 100, 250, 500])
            expected = {place: data.draw(megabytes) for place in dict.fromkeys((*devices, "cpu"))}
            model = Model(f"m{index}", devices, expected, may_unload=data.draw(st.integers(0, 4)) > 0)
            self.models.append(model)
            if data.draw(st.booleans()) and all(self.free(place) >= size for place, size in expected.items()):
                model.held, model.last_used = dict(expected), -float(index)

    # --- the world ----------------------------------------------------------------------------

    def free(self, place: str) -> int:
        return TOTAL[place] - self.outsiders[place] - sum(model.held.get(place, 0) for model in self.models)

    def in_flight(self) -> list[InFlight]:
        return [model.starting for model in self.models if model.starting is not None]

    def loaded(self) -> list[Loaded]:
        return [
            Loaded(
                key=model.key,
                devices=model.devices,
                measured_mb=dict(model.held),
                last_used=model.last_used,
                leases=model.leases,
                may_unload=model.may_unload,
                is_leaving=model.is_leaving,
            )
            for model in reversed(self.models)
            if model.held
        ]

    def attainable(self, place: str, *, with_starts: bool) -> int:
        """Return what is free once all that may go is gone, and before or after starts have taken theirs."""
        gone = sum(model.held.get(place, 0) for model in self.models if model.is_idle or model.is_leaving)
        coming = sum(start.expected_mb.get(place, 0) for start in self.in_flight())
        return self.free(place) + gone - (coming if with_starts else 0)

    def ask(self, model: Model) -> None:
        """Decide on the start of a model that is waited for, once, and follow the decision."""
        needs = {"cpu": Need(model.expected["cpu"], RESERVED), "gpu": Need(0, RESERVED)}
        start = StartRequest(
            key=model.key, devices=model.devices, needs=needs, measured_mb=dict(model.expected)
        )
        memory = {place: Memory(self.free(place), total) for place, total in TOTAL.items()}
        match decide_start(start, memory, self.in_flight(), self.loaded()):
            case Admit(expected_mb=expected):
                assert expected == model.expected
                model.starting = InFlight(model.devices, expected)
            case Unload(keys=keys):
                self.unload(model, keys)
            case WaitForStarts():
                assert self.in_flight() or any(other.is_leaving for other in self.models)
            case Refuse():
                assert not self.fits(model, with_starts=False)
                model.waiting = 0

    def fits(self, model: Model, *, with_starts: bool) -> bool:
        wanted = {place: figure + RESERVED for place, figure in model.expected.items()}
        return all(
            self.attainable(place, with_starts=with_starts) >= figure for place, figure in wanted.items()
        )

    def unload(self, wanted: Model, keys: tuple[str, ...]) -> None:
        """Check whom it chose, and let them go."""
        chosen = [next(model for model in self.models if model.key == key) for key in keys]
        assert chosen
        assert all(model.is_idle for model in chosen)
        assert [model.last_used for model in chosen] == sorted(model.last_used for model in chosen)
        assert self.is_enough(wanted, chosen)
        for model in chosen:
            assert not self.is_enough(wanted, [item for item in chosen if item is not model])
        for model in chosen:
            model.is_leaving = True
        self.ask(wanted)  # asked before they are gone, it must not choose others as well

    def is_enough(self, wanted: Model, gone: list[Model]) -> bool:
        gone = gone + [model for model in self.models if model.is_leaving]
        for place, figure in wanted.expected.items():
            coming = sum(start.expected_mb.get(place, 0) for start in self.in_flight())
            back = sum(model.held.get(place, 0) for model in gone)
            if self.free(place) + back - coming < figure + RESERVED:
                return False
        return True

    def settle(self, model: Model) -> None:
        model.starting = None
        model.held = dict(model.expected)
        model.leases, model.waiting = model.waiting, 0
        model.last_used = self.clock.now

    def of(self, data: st.DataObject, models: list[Model]) -> Model | None:
        return data.draw(st.sampled_from(models)) if models else None

    # --- what happens -------------------------------------------------------------------------

    @rule(data=st.data())
    def request(self, data: st.DataObject) -> None:
        model = self.of(data, [model for model in self.models if not model.is_leaving])
        if model is None:
            return
        self.clock.advance(1.0)
        if model.held:
            model.leases += 1
            return
        model.waiting += 1
        if model.starting is None:
            self.ask(model)

    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        if model := self.of(data, [model for model in self.models if model.leases]):
            self.clock.advance(1.0)
            model.leases -= 1
            model.last_used = self.clock.now

    @rule(data=st.data())
    def start_settles(self, data: st.DataObject) -> None:
        if model := self.of(data, [model for model in self.models if model.starting]):
            self.settle(model)
            self.ask_again()

    @rule(data=st.data())
    def start_fails_or_model_dies(self, data: st.DataObject) -> None:
        if model := self.of(data, [model for model in self.models if model.starting or model.held]):
            model.starting, model.held, model.is_leaving = None, {}, False
            model.leases = model.waiting = 0
            self.ask_again()

    @rule(data=st.data())
    def unloaded_model_is_gone(self, data: st.DataObject) -> None:
        if model := self.of(data, [model for model in self.models if model.is_leaving]):
            model.held, model.is_leaving = {}, False
            self.ask_again()

    @rule(place=st.sampled_from(sorted(TOTAL)), share=st.sampled_from([0.0, 0.3, 1.0]))
    def other_programs_change(self, place: str, share: float) -> None:
        coming = sum(start.expected_mb.get(place, 0) for start in self.in_flight())
        self.outsiders[place] = int((self.free(place) + self.outsiders[place] - coming) * share)

    def ask_again(self) -> None:
        for model in self.models:
            if model.waiting and not model.starting and not model.held:
                self.ask(model)

    # --- what must come in the end --------------------------------------------------------------

    @precondition(lambda self: any(not model.held and not model.starting for model in self.models))
    @rule(data=st.data())
    def whoever_fits_beside_what_must_stay_is_loaded(self, data: st.DataObject) -> None:
        model = self.of(data, [model for model in self.models if not model.held and not model.starting])
        assert model is not None
        for other in self.models:  # nobody else waits, and what starts is there
            if other.starting:
                self.settle(other)
            other.waiting = 0
        fits = self.fits(model, with_starts=True)
        model.waiting = 1
        for _ in range(len(self.models) + 1):
            if model.starting or not model.waiting:
                break
            self.ask(model)
            for other in self.models:
                if other.is_leaving:
                    other.held, other.is_leaving = {}, False
        assert bool(model.starting) == fits

    # --- what always holds ------------------------------------------------------------------------

    @invariant()
    def memory_is_never_overdrawn(self) -> None:
        if hasattr(self, "models"):
            for place in TOTAL:
                coming = sum(start.expected_mb.get(place, 0) for start in self.in_flight())
                assert self.free(place) - coming >= 0

    @invariant()
    def who_has_requests_stays(self) -> None:
        if hasattr(self, "models"):
            assert not any(
                model.is_leaving and (model.leases or not model.may_unload) for model in self.models
            )


TestPlacing = Placing.TestCase
TestPlacing.settings = settings(max_examples=100, stateful_step_count=25, deadline=None)


@given(wanted=st.integers(1, 64), budget=st.integers(1, 128), workers=st.integers(1, 64))
def test_shared_threads_use_the_budget_and_no_more(wanted: int, budget: int, workers: int) -> None:
    threads = share_threads(wanted, budget, workers)
    assert 1 <= threads <= wanted
    assert threads == 1 or threads * workers <= budget
    assert threads == wanted or (threads + 1) * workers > budget
