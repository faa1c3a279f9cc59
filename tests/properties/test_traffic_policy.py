"""Versions get their shares, and a new one is taken back for what is surely worse and for nothing else."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable

import pytest
from frame.policy.traffic import RollbackRule, Sampling, ShadowRule, Shares, TrafficRules
from frame.policy.trial import Trial, Verdict, interval
from hypothesis import given
from hypothesis import strategies as st

WEIGHTS = st.dictionaries(
    st.sampled_from("abcde"), st.floats(0.0, 100.0, allow_nan=False, width=32), min_size=1
).filter(lambda weights: any(weights.values()))


@given(weights=WEIGHTS, rounds=st.integers(1, 500), seed=st.integers(0, 1000))
def test_each_version_is_chosen_as_often_as_its_share_says(
    weights: dict[str, float], rounds: int, seed: int
) -> None:
    shares = Shares(weights, random.Random(seed).random)
    chosen = Counter(shares.choose(weights) for _ in range(rounds))
    total = sum(weights.values())
    for version, weight in weights.items():
        assert abs(chosen[version] - rounds * weight / total) <= len(weights)
        assert weight or not chosen[version]


@given(weights=WEIGHTS, data=st.data())
def test_only_what_is_available_is_chosen(weights: dict[str, float], data: st.DataObject) -> None:
    shares = Shares(weights, random.Random(1).random)
    for _ in range(20):
        available = data.draw(st.sets(st.sampled_from("abcdef")))
        chosen = shares.choose(available)
        candidates = {version for version in available if weights.get(version)}
        assert chosen in candidates if candidates else chosen is None
        heaviest = shares.heaviest(available)
        most = max((weights[version] for version in candidates), default=None)
        assert heaviest is None if most is None else weights[str(heaviest)] == most


@given(share=st.floats(0.0, 1.0), asked=st.integers(1, 1000))
def test_a_share_is_sampled_evenly(share: float, asked: int) -> None:
    sampling = Sampling(share)
    taken = sum(sampling.is_due() for _ in range(asked))
    assert abs(taken - share * asked) < 1 + 1e-6 * asked


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        (lambda: TrafficRules(weights={"1": -1.0}), "weights: 1: expected 0 to 1e+09"),
        (lambda: TrafficRules(weights={"1": float("nan")}), "weights: 1: expected 0 to 1e+09"),
        (lambda: TrafficRules(weights={"1": 0}), "weights: expected one above 0"),
        (lambda: TrafficRules(weights={"1": 1e308, "2": 1e308}), "weights: 1: expected 0 to 1e+09"),
        (lambda: RollbackRule(version="2", max_deaths=10**400), "max_deaths: expected 0 to 1e+09"),
        (lambda: TrafficRules(default="1", weights={"1": 1}), "default and weights"),
        (lambda: TrafficRules(labels={"a/b": "1"}), "labels: 'a/b'"),
        (lambda: ShadowRule(version="2", share=1.5), "share: expected 0 to 1"),
        (lambda: ShadowRule(version="2", tolerance=-0.1), "tolerance: expected 0 to 1e+09"),
        (lambda: RollbackRule(version="2", latency_ratio=0.5), "latency_ratio: expected 1 to 1e+09"),
        (lambda: TrafficRules(default="2", rollback=RollbackRule(version="2")), "expected a baseline"),
        (
            lambda: TrafficRules(weights={"1": 1, "2": 0}, rollback=RollbackRule(version="2")),
            "rollback: version 2 has no weight",
        ),
        (
            lambda: TrafficRules(weights={"1": 1, "2": 1}, rollback=RollbackRule(version="2", baseline="3")),
            "expected a baseline",
        ),
    ],
)
def test_rules_that_cannot_be_followed_are_refused(rules: Callable[[], object], said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        rules()


def test_what_names_a_version_that_is_gone_goes_with_it() -> None:
    rules = TrafficRules(
        weights={"1": 8, "2": 1, "3": 1},
        labels={"stable": "1", "next": "2"},
        shadow=ShadowRule(version="2"),
        rollback=RollbackRule(version="2"),
    )
    assert rules.baseline == "1"
    assert set(rules.versions()) == {
        ("weights", "1"), ("weights", "2"), ("weights", "3"), ("labels: stable", "1"), ("labels: next", "2"),
        ("shadow", "2"),
    }  # fmt: skip
    assert rules.without("2") == TrafficRules(weights={"1": 8, "3": 1}, labels={"stable": "1"})
    assert rules.without("1").rollback is None  # the baseline
    assert rules.without("3").rollback == rules.rollback
    taken_back = rules.without_weight("2")
    assert (taken_back.labels, taken_back.shadow) == (rules.labels, rules.shadow)
    assert (taken_back.weights, taken_back.rollback) == ({"1": 8, "3": 1}, None)
    assert TrafficRules(default="1").without("1") == TrafficRules()
    assert TrafficRules(weights={"1": 0, "2": 1}).without("2") == TrafficRules()


# --- trials ------------------------------------------------------------------------------------------


class Play:
    """A trial in which both versions get requests, a share of them the new one."""

    def __init__(self, seed: int, rule: RollbackRule, *, share: float) -> None:
        self.random = random.Random(seed)
        self.trial = Trial(rule)
        self.shares = Shares({"new": share, "old": 1 - share}, self.random.random)
        self.requests = 0

    def run(
        self,
        count: int,
        *,
        errors: float = 0.0,
        factor: float = 1.0,
        base_errors: float = 0.0,
        deaths: float = 0.0,
        base_deaths: float = 0.0,
        patience: float = 1e9,
    ) -> Verdict | None:
        """Return the verdict as soon as there is one; looks after every request."""
        for self.requests in range(1, count + 1):
            is_new = self.shares.choose(("new", "old")) == "new"
            seconds = self.random.lognormvariate(-4, 0.5) * (factor if is_new else 1.0)
            record = self.trial.candidate if is_new else self.trial.baseline
            outcome = "ok" if seconds < patience else "cancelled"
            if self.random.random() < (errors if is_new else base_errors):
                outcome = "model_error"
            now = self.requests * 0.01
            record.add(outcome, min(seconds, patience), now)
            if self.random.random() < (deaths if is_new else base_deaths):
                record.died(1, now)
            found = self.trial.review(now, failed=None)
            if found is not None:
                return found
        return None


RULE = RollbackRule(version="2")


@pytest.mark.parametrize("share", [0.1, 0.5])
@pytest.mark.parametrize("seed", range(10))
def test_a_version_that_errs_on_one_in_twenty_is_found(seed: int, share: float) -> None:
    verdict = Play(seed, RULE, share=share).run(30_000, errors=0.05)
    assert verdict is not None
    assert verdict.cause == "errors"
    assert "error_margin 0.02" in verdict.reason


@pytest.mark.parametrize("patience", [1e9, 0.04])
@pytest.mark.parametrize("share", [0.1, 0.5])
@pytest.mark.parametrize("seed", range(5))
def test_a_version_three_times_as_slow_is_found_even_when_clients_do_not_wait(
    seed: int, share: float, patience: float
) -> None:
    verdict = Play(seed, RULE, share=share).run(5_000, factor=3.0, patience=patience)
    assert verdict is not None
    assert verdict.cause == "latency"
    assert "latency_ratio 2" in verdict.reason


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_version_that_dies_is_found(share: float) -> None:
    for seed in range(5):
        verdict = Play(seed, RULE, share=share).run(3_000, deaths=0.05)
        assert verdict is not None
        assert verdict.cause == "deaths"


@pytest.mark.parametrize(
    ("share", "facts"),
    [
        (0.05, {"errors": 0.05, "base_errors": 0.05}),
        (0.1, {"errors": 0.05, "base_errors": 0.05}),
        (0.05, {"errors": 0.005, "base_errors": 0.005}),
        (0.5, {"errors": 0.3, "base_errors": 0.3}),
        (0.2, {"errors": 0.03, "base_errors": 0.02, "factor": 1.4}),
        (0.5, {"deaths": 0.01, "base_deaths": 0.01}),
        (0.9, {"deaths": 0.01, "base_deaths": 0.01}),
    ],
)
def test_hardly_ever_is_a_version_taken_back_that_is_no_worse(share: float, facts: dict[str, float]) -> None:
    found = [Play(seed, RULE, share=share).run(1_000, **facts) for seed in range(60)]
    assert sum(verdict is not None for verdict in found) <= 1


def test_a_version_that_only_fails_is_found_at_once() -> None:
    play = Play(1, RULE, share=0.2)
    assert play.run(400, errors=1.0) is not None
    assert play.requests <= 200


def test_one_failure_of_one_is_no_evidence() -> None:
    trial = Trial(RULE)
    for _ in range(500):
        trial.baseline.add("ok", 0.01, 0.0)
    trial.candidate.add("server_error", 0.01, 0.0)
    assert trial.review(0.0, failed=None) is None


def test_workers_that_die_without_a_request_are_deaths() -> None:
    trial = Trial(RULE)
    trial.baseline.add("ok", 0.01, 0.0)
    trial.candidate.died(1, 0.0)
    assert trial.review(0.0, failed=None) is None  # max_deaths=1
    trial.candidate.died(1, 0.0)
    verdict = trial.review(0.0, failed=None)
    assert verdict is not None
    assert (verdict.cause, "died 2 times" in verdict.reason) == ("deaths", True)


def test_a_failed_version_is_taken_back_with_its_cause() -> None:
    verdict = Trial(RULE).review(0.0, failed="no weights here")
    assert verdict is not None
    assert (verdict.cause, verdict.reason) == ("failed", "it is FAILED: no weights here")


def test_what_is_older_than_the_window_does_not_count() -> None:
    trial = Trial(RollbackRule(version="2", window=10.0))
    for now in range(100):
        trial.candidate.add("server_error", 0.1, float(now))
        trial.candidate.add("cancelled", 0.1, float(now))
        trial.candidate.died(1, float(now))
        trial.baseline.add("ok", 0.1, float(now))
    assert (len(trial.candidate), trial.candidate.asked, trial.candidate.deaths) == (100, 200, 100)
    assert trial.review(99.0, failed=None) is not None
    assert (len(trial.candidate), trial.candidate.failures, trial.candidate.deaths) == (11, 11, 11)
    assert trial.review(200.0, failed=None) is None
    assert trial.candidate.asked == 0


@given(bad=st.integers(0, 200), more=st.integers(0, 200))
def test_an_interval_holds_its_share(bad: int, more: int) -> None:
    count = bad + more or 1
    low, high = interval(bad, count)
    assert 0.0 <= low <= bad / count <= high <= 1.0
    assert (low == 0.0) == (bad == 0)
