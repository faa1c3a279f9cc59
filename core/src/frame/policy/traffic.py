"""Which version of a model gets a request that names none, as an operator has ruled."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

UNVERSIONED = "default"
"""What rules and paths call a model without a version, as DJL Serving does."""

_LARGEST = 1e9
_LABEL = re.compile(r"[\w.-]{1,255}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowRule:
    """Copies of requests go to a version whose answers nobody gets: they are compared and counted.

    Attributes:
        version: the one that gets copies.
        share: of the requests that name no version, 0 to 1.
        tolerance: numbers of JSON answers are equal when they differ by no more than this, absolutely or
            relatively; other answers are equal when their bytes are.
    """

    version: str
    share: float = 1.0
    tolerance: float = 0.0

    def __post_init__(self) -> None:
        _check("share", self.share, most=1.0)
        _check("tolerance", self.tolerance)


@dataclass(frozen=True, slots=True, kw_only=True)
class RollbackRule:
    """When a version loses its weight by itself (`policy.trial` decides).

    Attributes:
        version: the new one.
        baseline: what it is compared with; None: the version with the most weight beside it.
        error_margin: its share of failed requests may be larger by as much, 0 to 1.
        latency_ratio: its median and 95th percentile may be as many times the baseline's, >= 1.
        max_deaths: workers of it may die so many times more than the baseline's.
        min_requests: of each version, before their latencies are compared, >= 1.
        window: seconds after which a request no longer counts, > 0.
    """

    version: str
    baseline: str | None = None
    error_margin: float = 0.02
    latency_ratio: float = 2.0
    max_deaths: int = 1
    min_requests: int = 20
    window: float = 600.0

    def __post_init__(self) -> None:
        _check("error_margin", self.error_margin, most=1.0)
        _check("latency_ratio", self.latency_ratio, least=1.0)
        _check("max_deaths", self.max_deaths)
        _check("min_requests", self.min_requests, least=1)
        _check("window", self.window, least=1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficRules:
    """What an operator has set for a model; versions are named as in paths, `default` has no version.

    Attributes:
        default: gets every request that names no version; None: the newest that is ready, unless `weights`.
        weights: shares of the requests that name no version, in any unit.
        labels: other names of versions, for paths.
        shadow: gets copies.
        rollback: what takes the weight of a version away.
    """

    default: str | None = None
    weights: Mapping[str, float] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    shadow: ShadowRule | None = None
    rollback: RollbackRule | None = None

    def __post_init__(self) -> None:
        for version, weight in self.weights.items():
            _check(f"weights: {version}", weight)
        if self.weights and not 0.0 < sum(self.weights.values()) <= _LARGEST:
            raise ValueError(f"weights: expected one above 0, and {_LARGEST:g} at most together")
        if self.default is not None and self.weights:
            raise ValueError("default and weights: expected one of them")
        for label in self.labels:
            if _LABEL.fullmatch(label) is None:
                raise ValueError(f"labels: {label[:50]!r}: letters, digits, _, . and - are allowed")
        if self.rollback is not None:
            self._check_rollback(self.rollback)

    def _check_rollback(self, rule: RollbackRule) -> None:
        if not self.shares.get(rule.version):
            raise ValueError(f"rollback: version {rule.version} has no weight that could be taken away")
        if rule.baseline == rule.version or not self.shares.get(self.baseline):
            raise ValueError("rollback: expected a baseline, another version that has a weight")

    @property
    def shares(self) -> Mapping[str, float]:
        """The weights; empty: the newest version gets all."""
        return {self.default: 1.0} if self.default is not None else self.weights

    @property
    def baseline(self) -> str:
        """The version that the one of `rollback` is compared with; empty: there is none."""
        if self.rollback is None:
            return ""
        if self.rollback.baseline is not None:
            return self.rollback.baseline
        others = {key: weight for key, weight in self.shares.items() if key != self.rollback.version}
        return max(others, key=others.__getitem__, default="")

    def versions(self) -> Iterator[tuple[str, str]]:
        """Yield each version that is named, with the field that names it."""
        if self.default is not None:
            yield "default", self.default
        yield from (("weights", version) for version in self.weights)
        yield from ((f"labels: {label}", version) for label, version in self.labels.items())
        if self.shadow is not None:
            yield "shadow", self.shadow.version
        if self.rollback is not None and self.rollback.baseline is not None:
            yield "rollback", self.rollback.baseline

    def without(self, version: str) -> TrafficRules:
        """Return what is left when a version is gone."""
        rules = self.without_weight(version)
        return replace(
            rules,
            labels={label: target for label, target in self.labels.items() if target != version},
            shadow=self.shadow if self.shadow is not None and self.shadow.version != version else None,
        )

    def without_weight(self, version: str) -> TrafficRules:
        """Return what is left when a version shall get no more requests that name none."""
        weights = {key: weight for key, weight in self.weights.items() if key != version}
        rule = self.rollback
        return replace(
            self,
            default=None if self.default == version else self.default,
            weights=weights if any(weights.values()) else {},
            rollback=None if rule is None or version in {rule.version, self.baseline} else rule,
        )


class Shares:
    """Hands out versions by weight, smoothly but in no order that clients could fall into step with.

    Invariant: after any number of choices among the same versions each has been chosen as often as its share
        of them says, give or take one for each other version.
    """

    def __init__(self, weights: Mapping[str, float], random: Callable[[], float]) -> None:
        """Choose by weight.

        Args:
            random: returns numbers from 0 to 1.
        """
        self._weights = {version: weight for version, weight in weights.items() if weight > 0}
        self._credit = dict.fromkeys(self._weights, 0.0)
        self._random = random

    def choose(self, available: Collection[str]) -> str | None:
        """Return the next version of those that are available; None when there is none."""
        candidates = [version for version in self._weights if version in available]
        if not candidates:
            return None
        total = sum(self._weights[version] for version in candidates)
        for version in candidates:
            self._credit[version] += self._weights[version] / total
        chosen = self._draw(candidates)
        self._credit[chosen] -= 1.0
        return chosen

    def _draw(self, candidates: Sequence[str]) -> str:
        """Draw one by credit; one that is owed a whole request gets it."""
        owed = max(candidates, key=self._credit.__getitem__)
        if self._credit[owed] >= 1.0:
            return owed
        owing = [max(0.0, self._credit[version]) for version in candidates]
        left = self._random() * sum(owing)
        for version, credit in zip(candidates, owing, strict=True):
            left -= credit
            if left < 0.0:
                return version
        return owed

    def heaviest(self, available: Collection[str]) -> str | None:
        """Return the version with the largest weight of those that are available."""
        candidates = (version for version in self._weights if version in available)
        return max(candidates, key=self._weights.__getitem__, default=None)


class Sampling:
    """Says yes to a share of the times it is asked, evenly."""

    def __init__(self, share: float) -> None:
        self._share = share
        self._due = 0.0

    def is_due(self) -> bool:
        """Tell whether this one is."""
        self._due += self._share
        if self._due < 1.0 - 1e-9:
            return False
        self._due -= 1.0
        return True


def _check(name: str, value: float, *, least: float = 0.0, most: float = 1e9) -> None:
    if not least <= value <= most:  # true of what is no number
        raise ValueError(f"{name}: expected {least:g} to {most:g}")
