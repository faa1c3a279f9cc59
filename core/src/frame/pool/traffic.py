"""The traffic rules of each model, in force: who gets a request, and when a new version loses its share."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from time import monotonic
from typing import TypedDict

from frame.http.host import RollbackView, ShadowView, TrafficView, TrialView
from frame.policy.traffic import UNVERSIONED, Sampling, ShadowRule, Shares, TrafficRules
from frame.policy.trial import MEDIAN, TAIL, Record, Trial
from frame.pool.model import ModelPool

_log = logging.getLogger(__name__)
_REVIEW_SECONDS = 0.1
_KEPT_ROLLBACKS, _KEPT_DIFFERENCES = 10, 10

Versions = Mapping[str | None, ModelPool]
Watcher = Callable[[str, float], None]


@dataclass(slots=True)
class ShadowCounts:
    """What became of copied requests, by result, and where the last answers differed."""

    results: dict[str, int] = field(default_factory=dict)
    differences: deque[tuple[str, str]] = field(default_factory=lambda: deque(maxlen=_KEPT_DIFFERENCES))
    """Request id and place, oldest first."""
    waiting: int = 0
    """Copies without an answer yet."""

    def count(self, result: str) -> None:
        """Count one."""
        self.results[result] = self.results.get(result, 0) + 1


class TrafficFigures(TypedDict, total=False):
    """What the metrics show of a version's traffic, as `MetricsView` names it."""

    share: float | None
    shadow: Mapping[str, int]
    rollbacks: Mapping[str, int]


class ModelTraffic:
    """Rules of one model and what came of them."""

    def __init__(self) -> None:
        self.rules = TrafficRules()
        self.rollbacks: deque[RollbackView] = deque(maxlen=_KEPT_ROLLBACKS)
        self.rollback_counts: dict[tuple[str, str], int] = {}
        """By version and cause."""
        self.shadows: dict[str, ShadowCounts] = {}
        self.records: dict[str, Record] = {}
        """The requests of a trial, by version."""
        self._shares = Shares({}, random.random)
        self._sampling = Sampling(0.0)
        self._trial: Trial | None = None
        self._deaths: dict[ModelPool, int] = {}

    def set_rules(self, rules: TrafficRules, *, keeps_trial: bool = False) -> None:
        """Have other rules.

        Args:
            keeps_trial: go on with the trial where both of its versions are the same.
        """
        before = self.rules.rollback, self.rules.baseline
        self.rules = rules
        self._shares = Shares(rules.shares, random.random)
        self._sampling = Sampling(rules.shadow.share if rules.shadow else 0.0)
        if not (keeps_trial and before == (rules.rollback, rules.baseline)):
            self._begin_trial()

    def _begin_trial(self) -> None:
        self._trial, self.records, self._deaths = None, {}, {}
        rule = self.rules.rollback
        if rule is not None:
            trial = self._trial = Trial(rule)
            self.records = {rule.version: trial.candidate, self.rules.baseline: trial.baseline}

    def choose(self, versions: Versions, *, counts: bool) -> ModelPool | None:
        """Return who gets a request that names no version; None: the rules do not say.

        Args:
            counts: there is such a request; else it is only asked who would get most.
        """
        staying = {text_of(key): pool for key, pool in versions.items() if not pool.is_closing}
        ready = [name for name, pool in staying.items() if pool.status == "READY"]
        chosen = self._shares.choose(ready) if counts else self._shares.heaviest(ready)
        chosen = chosen or self._shares.heaviest(staying)
        return None if chosen is None else staying[chosen]

    def watcher(self, pool: ModelPool) -> Watcher | None:
        """Return who is told of the end of a request: its outcome and its seconds."""
        record = self.records.get(text_of(pool.plan.version))
        if record is None:
            return None
        return lambda outcome, seconds: record.add(outcome, seconds, monotonic())

    def shadow_of(self, pool: ModelPool) -> tuple[ShadowRule, ShadowCounts] | None:
        """Return who gets a copy of this request of `pool`, if somebody does, and where that is counted."""
        rule = self.rules.shadow
        if rule is None or rule.version == text_of(pool.plan.version) or not self._sampling.is_due():
            return None
        return rule, self.shadows.setdefault(rule.version, ShadowCounts())

    def review(self, versions: Versions) -> RollbackView | None:
        """Return the version that is to be taken back, and why, if one is."""
        rule, trial = self.rules.rollback, self._trial
        if rule is None or trial is None:
            return None
        pool, base = (versions.get(key_of(name)) for name in (rule.version, self.rules.baseline))
        if pool is None or base is None or base.status != "READY" or base.is_closing:
            trial.candidate.clear()  # there is nothing to go back to, and what comes now is no comparison
            trial.baseline.clear()
            return None
        if self._deaths.keys() != {pool, base}:  # the first time, or one of them was replaced
            self._deaths = {pool: _deaths(pool), base: _deaths(base)}
        now = monotonic()
        for record, its in ((trial.candidate, pool), (trial.baseline, base)):
            record.died(_deaths(its) - self._deaths[its], now)
            self._deaths[its] = _deaths(its)
        verdict = trial.review(now, failed=pool.reason or "" if pool.status == "FAILED" else None)
        if verdict is None:
            return None
        return RollbackView(
            version=rule.version, at=datetime.now(UTC), cause=verdict.cause, reason=verdict.reason
        )

    def note(self, rollback: RollbackView) -> None:
        """Keep what was taken back."""
        self.rollbacks.append(rollback)
        key = rollback.version, rollback.cause
        self.rollback_counts[key] = self.rollback_counts.get(key, 0) + 1

    def gives(self, pool: ModelPool) -> bool:
        """Tell whether a version gets requests that name none, as the rules are now."""
        shares = self.rules.shares
        return not shares or shares.get(text_of(pool.plan.version), 0.0) > 0

    def share_of(self, version: str) -> float | None:
        """Return a version's share of the requests that name none; None where the rules do not say."""
        shares = self.rules.shares
        return shares.get(version, 0.0) / sum(shares.values()) if shares else None

    def view(self) -> TrafficView:
        """Return what it is now."""
        return TrafficView(
            rules=self.rules,
            trial={version: _trial_view(record) for version, record in self.records.items()},
            shadows={
                version: ShadowView(results=dict(counts.results), differences=tuple(counts.differences))
                for version, counts in self.shadows.items()
            },
            rollbacks=tuple(self.rollbacks),
        )


class TrafficDesk:
    """The rules of all models. `changed` is called when a version lost its weight, or was unregistered."""

    def __init__(self, pools: Mapping[str, Versions]) -> None:
        self.changed: Callable[[], None] = lambda: None
        self._pools = pools
        self._models: dict[str, ModelTraffic] = {}

    def find(self, model: str) -> ModelTraffic | None:
        """Return what is ruled for a model, if anything was."""
        return self._models.get(model)

    def set_rules(self, model: str, rules: TrafficRules) -> None:
        """Have other rules for a model from the next request on."""
        self._models.setdefault(model, ModelTraffic()).set_rules(rules)

    def rules(self) -> Iterator[tuple[str, TrafficRules]]:
        """Yield each model for which something is ruled."""
        empty = TrafficRules()
        return ((name, traffic.rules) for name, traffic in self._models.items() if traffic.rules != empty)

    def forget(self, model: str, version: str | None, *, is_last: bool) -> None:
        """Drop a version from the rules; the last one takes them along."""
        traffic = self._models.get(model)
        if traffic is None:
            return
        if is_last:
            del self._models[model]
        elif (rules := traffic.rules.without(text_of(version))) != traffic.rules:
            traffic.set_rules(rules, keeps_trial=True)
        self.changed()

    def figures(self, pool: ModelPool) -> TrafficFigures:
        """Return what the metrics show of a version's traffic."""
        traffic = self._models.get(pool.plan.name)
        if traffic is None:
            return {}
        version = text_of(pool.plan.version)
        return {
            "share": traffic.share_of(version),
            "shadow": traffic.shadows.get(version, ShadowCounts()).results,
            "rollbacks": {
                cause: count for (name, cause), count in traffic.rollback_counts.items() if name == version
            },
        }

    async def run(self) -> None:
        """Look after new versions until cancelled."""
        while True:
            await asyncio.sleep(_REVIEW_SECONDS)
            for name, traffic in list(self._models.items()):
                try:
                    self._look_after(name, traffic)
                except Exception:  # noqa: BLE001  # fault line: one model's rules must not end the server
                    _log.exception("traffic_not_reviewed model=%s", name)

    def _look_after(self, name: str, traffic: ModelTraffic) -> None:
        rollback = traffic.review(self._pools.get(name, {}))
        if rollback is not None:
            self._roll_back(name, traffic, rollback)

    def _roll_back(self, name: str, traffic: ModelTraffic, rollback: RollbackView) -> None:
        traffic.note(rollback)
        facts = (name, rollback.version, rollback.cause, rollback.reason)
        _log.error("version_rolled_back model=%s version=%s cause=%s reason=%s", *facts)
        traffic.set_rules(traffic.rules.without_weight(rollback.version))
        self.changed()


def key_of(version: str) -> str | None:
    """Return the version that a path or a rule names."""
    return None if version == UNVERSIONED else version


def text_of(version: str | None) -> str:
    """Return what paths and rules call a version."""
    return UNVERSIONED if version is None else version


def _trial_view(record: Record) -> TrialView:
    return TrialView(
        requests=len(record),
        failures=record.failures,
        median=record.quantile(MEDIAN),
        tail=record.quantile(TAIL),
    )


def _deaths(pool: ModelPool) -> int:
    return sum(pool.metrics.restarts.values())
