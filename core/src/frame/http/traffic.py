"""Traffic rules as JSON: `PUT /models/{model}/traffic` takes them, `GET` shows what came of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass

import msgspec

from frame.errors import BadRequestError
from frame.http.descriptions import utc_text
from frame.http.host import ShadowView, TrafficView, TrialView
from frame.policy.traffic import RollbackRule, ShadowRule, TrafficRules

_MILLIS = 1e3
_PARTS: Mapping[str, type] = {"shadow": ShadowRule, "rollback": RollbackRule}


def parse_rules(data: str | bytes) -> TrafficRules:
    """Read rules.

    Raises:
        BadRequestError: they are no JSON object of these fields, or a value is wrong; names it.
    """
    try:
        body = msgspec.json.decode(data)
    except (msgspec.DecodeError, ValueError, RecursionError):
        raise BadRequestError("The body is no JSON.") from None
    return rules_of(body)


def rules_of(body: object) -> TrafficRules:
    """Return rules that `rules_body` or an operator wrote; raises as `parse_rules`."""
    if not isinstance(body, dict):
        raise BadRequestError("The body must be a JSON object with the rules.")
    _refuse_unknown(body, TrafficRules, "")
    for name, kind in _PARTS.items():
        if isinstance(part := body.get(name), dict):
            _refuse_unknown(part, kind, f"{name}.")
    try:
        return msgspec.convert(body, TrafficRules)
    except (msgspec.ValidationError, OverflowError) as error:
        raise BadRequestError(f"Traffic rules: {error}") from None


def rules_body(rules: TrafficRules) -> dict[str, object]:
    """Return rules as JSON, without what is not set."""
    body = {item.name: getattr(rules, item.name) for item in fields(rules)}
    return {
        name: msgspec.to_builtins(value) if is_dataclass(value) else value
        for name, value in body.items()
        if value
    }


def traffic_body(model: str, view: TrafficView) -> dict[str, object]:
    """Return the answer of `GET /models/{model}/traffic`."""
    return {
        "modelName": model,
        "rules": rules_body(view.rules),
        "trial": {version: _trial(item) for version, item in view.trial.items()} or None,
        "shadow": {version: _shadow(item) for version, item in view.shadows.items()} or None,
        "rollbacks": [
            {"version": item.version, "at": utc_text(item.at), "cause": item.cause, "reason": item.reason}
            for item in view.rollbacks
        ],
    }


def rules_text(rules: TrafficRules) -> str:
    """Return rules on one line."""
    return json.dumps(rules_body(rules), separators=(",", ":"))


def _trial(item: TrialView) -> dict[str, object]:
    return {
        "requests": item.requests,
        "failures": item.failures,
        "p50Millis": _millis(item.median),
        "p95Millis": _millis(item.tail),
    }


def _millis(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * _MILLIS, 3)


def _shadow(item: ShadowView) -> dict[str, object]:
    differences = [{"requestId": request, "at": place} for request, place in item.differences]
    return {**item.results, "differences": differences or None}


def _refuse_unknown(given: Mapping[str, object], kind: type, prefix: str) -> None:
    known = [item.name for item in fields(kind)]
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise BadRequestError(
            f"Parameter {prefix}{unknown[0]}: unknown; these can be set: {', '.join(known)}."
        )
