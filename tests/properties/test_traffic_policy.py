"""Versions get their shares, and a new one is taken back for what is surely worse and for nothing else."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

import pytest
from frame.policy.traffic import RollbackRule, Sampling, ShadowRule, Shares, TrafficRules
from frame.policy.trial import Trial, Verdict, wilson
from hypothesis import given
from hypothesis import strategies as st

WEIGHTS = st.dictionaries(
    st.sampled_from("abcde"), st.floats(0.0, 100.0, allow_nan=False, width=32), min_size=1
).filter(lambda weights: any(weights.values()))


@given(weights=WEIGHTS, rounds=st.integers(1, 500))
def test_each_version_is_chosen_as_often_as_its_share_says(weights: dict[str, float], rounds: int) -> None:
    shares = Shares(weights)
    chosen = Counter(shares.choose(weights) for _ in range(rounds))
    total = sum(weights.values())
    for version, weight in weights.items():
        assert abs(chosen[version] - rounds * weight / total) <= len(weights)
        assert weight or not chosen[version]


@given(weights=WEIGHTS, data=st.data())
def test_only_what_is_available_is_chosen(weights: dict[str, float], data: st.DataObject) -> None:
    shares = Shares(weights)
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
        (lambda: TrafficRules(weights={"1": -1.0}), "weights: 1: expected 0 or more"),
        (lambda: TrafficRules(weights={"1": float("nan")}), "weights: 1: expected 0 or more"),
        (lambda: TrafficRules(weights={"1": 0}), "weights: expected one above 0"),
        (lambda: TrafficRules(default="1", weights={"1": 1}), "default and weights"),
        (lambda: TrafficRules(labels={"a/b": "1"}), "labels: 'a/b'"),
        (lambda: ShadowRule(version="2", share=1.5), "share: expected 0 to 1"),
        (lambda: ShadowRule(version="2", tolerance=-0.1), "tolerance: expected 0 or more"),
        (lambda: RollbackRule(version="2", latency_ratio=0.5), "latency_ratio: expected 1 or more"),
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
    with pytest.raises(ValueError, match=said.replace("(", r"\(")):
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
        self.trial = Trial(rule, deaths=3, baseline_deaths=1)
        self.share = share
        self.requests = 0

    def run(
        self, count: int, *, errors: float = 0.0, factor: float = 1.0, base_errors: float = 0.0
    ) -> Verdict | None:
        """Return the verdict as soon as there is one; looks after every tenth request."""
        for self.requests in range(1, count + 1):
            is_new = self.random.random() < self.share
            seconds = self.random.lognormvariate(-4, 0.5) * (factor if is_new else 1.0)
            failed = self.random.random() < (errors if is_new else base_errors)
            record = self.trial.candidate if is_new else self.trial.baseline
            record.add("model_error" if failed else "ok", seconds, self.requests * 0.01)
            if self.requests % 10 == 0:
                found = self.review()
                if found is not None:
                    return found
        return None

    def review(self, **changes: int | str | None) -> Verdict | None:
        """Ask with what has died."""
        facts = {"failed": None, "deaths": 3, "baseline_deaths": 1} | changes
        return self.trial.review(self.requests * 0.01, **facts)  # type: ignore[arg-type]


RULE = RollbackRule(version="2")


@pytest.mark.parametrize("share", [0.1, 0.5])
@pytest.mark.parametrize("seed", range(10))
def test_a_version_that_errs_on_one_in_twenty_is_found(seed: int, share: float) -> None:
    play = Play(seed, RULE, share=share)
    verdict = play.run(20_000, errors=0.05)
    assert verdict is not None
    assert verdict.cause == "errors"
    assert "error_margin 0.02" in verdict.reason


@pytest.mark.parametrize("share", [0.1, 0.5])
@pytest.mark.parametrize("seed", range(10))
def test_a_version_three_times_as_slow_is_found(seed: int, share: float) -> None:
    verdict = Play(seed, RULE, share=share).run(3_000, factor=3.0)
    assert verdict is not None
    assert verdict.cause == "latency"
    assert "latency_ratio 2" in verdict.reason


@pytest.mark.parametrize("seed", range(30))
def test_a_version_that_is_no_worse_than_the_margins_stays(seed: int) -> None:
    play = Play(seed, RULE, share=0.2)
    assert play.run(5_000, errors=0.03, base_errors=0.02, factor=1.4) is None


def test_a_version_that_only_fails_is_found_at_once() -> None:
    play = Play(1, RULE, share=0.2)
    verdict = play.run(200, errors=1.0)
    assert verdict is not None
    assert play.requests <= 100


def test_failures_that_both_have_are_not_the_new_ones() -> None:
    assert Play(1, RULE, share=0.5).run(5_000, errors=0.3, base_errors=0.3) is None


def test_deaths_count_from_the_start_of_the_trial_and_beyond_the_baselines() -> None:
    play = Play(1, RULE, share=0.5)
    assert play.review() is None
    assert play.review(deaths=4) is None  # max_deaths=1
    assert play.review(deaths=6, baseline_deaths=3) is None
    verdict = play.review(deaths=5)
    assert verdict is not None
    assert (verdict.cause, "died 2 times" in verdict.reason) == ("deaths", True)


def test_a_failed_version_is_taken_back_with_its_cause() -> None:
    verdict = Play(1, RULE, share=0.5).review(failed="no weights here")
    assert verdict is not None
    assert (verdict.cause, verdict.reason) == ("failed", "it is FAILED: no weights here")


def test_requests_older_than_the_window_and_those_of_clients_who_left_do_not_count() -> None:
    trial = Trial(RollbackRule(version="2", window=10.0), deaths=0, baseline_deaths=0)
    for now in range(100):
        trial.candidate.add("server_error", 0.1, float(now))
        trial.baseline.add("ok", 0.1, float(now))
        trial.candidate.add("cancelled", 0.1, float(now))
    assert len(trial.candidate) == 100
    assert trial.review(99.0, failed=None, deaths=0, baseline_deaths=0) is not None
    assert (len(trial.candidate), trial.candidate.failures) == (11, 11)
    assert trial.review(200.0, failed=None, deaths=0, baseline_deaths=0) is None


@given(bad=st.integers(0, 200), more=st.integers(0, 200))
def test_an_interval_holds_its_share(bad: int, more: int) -> None:
    count = bad + more or 1
    low, high = wilson(bad, count)
    assert 0.0 <= low <= bad / count <= high <= 1.0
