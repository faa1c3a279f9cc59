"""The control routes: register, scale, change and unregister models, set the log's level."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType

from quart import Response, request

from frame.errors import BadRequestError
from frame.http import answers
from frame.http.host import ModelRegistry, Registration, WorkerChange
from frame.http.traffic import parse_rules, rules_text
from frame.policy.traffic import TrafficRules

Handler = Callable[..., Awaitable[Response]]

MAX_BODY_BYTES = 1 << 20
LEVELS: Mapping[str, int] = MappingProxyType({
    "off": logging.CRITICAL + 1, "error": logging.ERROR, "warn": logging.WARNING, "warning": logging.WARNING,
    "info": logging.INFO, "debug": logging.DEBUG, "trace": logging.DEBUG,
})  # fmt: skip
"""Levels of `/server/logging`, DJL Serving's names."""
KEYS: Mapping[str, str] = MappingProxyType({
    "min_worker": "minWorkers", "max_worker": "maxWorkers", "device": "load_on_devices",
})  # fmt: skip
"""DJL Serving's parameters that have another name in serving.properties."""
_COUNTS = frozenset(
    {"job_queue_size", "batch_size", "max_batch_delay", "max_idle_time", "min_worker", "max_worker"}
)
_INTEGER = re.compile(r"-?[0-9]{1,9}")
_NAME = re.compile(r"[\w.-]{1,255}", re.ASCII)
_HALF_CHARACTER = re.compile("[\ud800-\udfff]")  # JSON may have them, UTF-8 not
_CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f]")
_BOOLEANS = {"true": True, "false": False}


def management_handlers(models: ModelRegistry) -> dict[str, Handler]:
    """Return the handler of each control route by the route's name."""

    async def register_model() -> Response:
        given = await _parameters()
        waits = _boolean(given, "synchronous", default=True)
        url = _url(given)
        wanted = Registration(
            url=url,
            name=_name(given, "model_name"),
            version=_version(given),
            settings={KEYS.get(key, key): value for key, value in given.items()},
        )
        name = await models.register(wanted, waits=waits)
        if waits:
            return _status(f'Model "{name}" registered.')
        return _status(f'Model "{name}" registration scheduled.', 202)

    async def scale_model(model: str, version: str | None = None) -> Response:
        return await _scale(models, model, version)

    async def change_model(model: str, version: str | None = None) -> Response:
        given = await _parameters()
        if not given:
            raise BadRequestError("There is no parameter: name the settings to change.")
        await models.change(model, version, given)
        changed = ", ".join(f"{key}={value}" for key, value in given.items())
        return _status(f'Model "{model}" changed: {changed}')

    async def unregister_model(model: str, version: str | None = None) -> Response:
        await models.unregister(model, version)
        return _status(f'Model or workflow "{model}" unregistered')

    async def set_logging() -> Response:
        given = await _parameters()
        name = given.pop("level", "info").lower()
        _refuse_others(given)
        if name not in LEVELS:
            raise BadRequestError(f"Parameter level: expected one of {', '.join(LEVELS)}.")
        logging.getLogger().setLevel(LEVELS[name])
        return _status("OK")

    return {
        "register_model": register_model,
        "scale_model": scale_model,
        "scale_model_version": scale_model,
        "change_model": change_model,
        "change_model_version": change_model,
        "unregister_model": unregister_model,
        "unregister_model_version": unregister_model,
        "set_logging": set_logging,
        **_workflow_handlers(models),
        **_traffic_handlers(models),
    }


async def _scale(models: ModelRegistry, name: str, version: str | None) -> Response:
    given = await _parameters()
    waits = _boolean(given, "synchronous", default=True)
    change = WorkerChange(
        minimum=_count(given, "min_worker"),
        maximum=_count(given, "max_worker"),
        device=given.pop("device", None) or None,
    )
    _refuse_others(given)
    scaled = await models.scale(name, version, change, waits=waits)
    lines = [
        f'Workflow "{item.name}" worker scaled. New Worker configuration '
        f"min workers:{item.minimum} max workers:{item.maximum}"
        for item in scaled
    ]
    return _status("\n".join(lines), 200 if waits else 202)


def _workflow_handlers(models: ModelRegistry) -> dict[str, Handler]:
    async def register_workflow() -> Response:
        given = await _parameters()
        waits = _boolean(given, "synchronous", default=True)
        if "template" in given:
            raise BadRequestError("Parameter template: there are no templates; write a workflow.json.")
        url = _url(given)
        wanted = Registration(url=url, name=_name(given, "workflow_name"), version=_version(given))
        _refuse_others(given)
        name = await models.register(wanted, waits=waits)
        if waits:
            return _status(f'Workflow "{name}" registered.')
        return _status(f'Workflow "{name}" registration scheduled.', 202)

    async def scale_workflow(workflow: str, version: str | None = None) -> Response:
        return await _scale(models, workflow, version)

    async def unregister_workflow(workflow: str, version: str | None = None) -> Response:
        await models.unregister(workflow, version)
        return _status(f'Model or workflow "{workflow}" unregistered')

    return {
        "register_workflow": register_workflow,
        "scale_workflow": scale_workflow,
        "scale_workflow_version": scale_workflow,
        "unregister_workflow": unregister_workflow,
        "unregister_workflow_version": unregister_workflow,
    }


def _traffic_handlers(models: ModelRegistry) -> dict[str, Handler]:
    async def set_traffic(model: str) -> Response:
        rules = parse_rules(await request.get_data())
        models.set_traffic(model, rules)
        return _status(f'Model "{model}" traffic: {rules_text(rules)}')

    async def forget_traffic(model: str) -> Response:
        models.set_traffic(model, TrafficRules())
        return _status(f'Model "{model}" traffic: the newest version')

    return {"set_traffic": set_traffic, "forget_traffic": forget_traffic}


async def _parameters() -> dict[str, str]:
    """Return the query's parameters on top of those of a JSON body, all as text.

    Raises:
        BadRequestError: the body is no JSON object of plain values, or a number is none.
    """
    given = dict(_body(await request.get_data())) if request.mimetype == "application/json" else {}
    given |= request.args.to_dict()
    if any(_HALF_CHARACTER.search(text) for pair in given.items() for text in pair):
        raise BadRequestError("A parameter has half of a character (a surrogate): it is no text.")
    for name in _COUNTS & given.keys():
        if _INTEGER.fullmatch(given[name]) is None:
            raise BadRequestError(f"Parameter {name}: expected an integer.")
    return given


def _body(data: str | bytes) -> Mapping[str, str]:
    try:
        body = json.loads(data or b"{}")
    except (ValueError, RecursionError):
        raise BadRequestError("The body is no JSON.") from None
    if not isinstance(body, dict):
        raise BadRequestError("The body must be a JSON object with the parameters.")
    for name, value in body.items():
        if not isinstance(value, (str, int, float, bool)):
            raise BadRequestError(f"Parameter {name}: expected text, a number, true or false.")
    return {
        name: json.dumps(value) if isinstance(value, bool) else str(value) for name, value in body.items()
    }


def _boolean(given: dict[str, str], name: str, *, default: bool) -> bool:
    text = given.pop(name, None)
    if text is None:
        return default
    if text.lower() not in _BOOLEANS:
        raise BadRequestError(f"Parameter {name}: expected true or false.")
    return _BOOLEANS[text.lower()]


def _count(given: dict[str, str], name: str) -> int | None:
    """Return a count; None when it is absent, or -1 as in DJL Serving."""
    text = given.pop(name, None)
    count = -1 if text is None else int(text)
    if count < -1:
        raise BadRequestError(f"Parameter {name}: expected 0 or more.")
    return None if count == -1 else count


def _url(given: dict[str, str]) -> str:
    url = given.pop("url", "")
    if not url:
        raise BadRequestError("Parameter url is required.")
    if _CONTROL_CHARACTER.search(url):
        raise BadRequestError("Parameter url: it has a control character.")
    return url


def _name(given: dict[str, str], name: str) -> str | None:
    text = given.pop(name, None)
    if text and _NAME.fullmatch(text) is None:
        raise BadRequestError(f"Parameter {name}: letters, digits, _, . and - are allowed.")
    return text or None


def _version(given: dict[str, str]) -> str | None:
    version = _name(given, "model_version")
    if version == "default":
        raise BadRequestError("Parameter model_version: default is a model without a version; leave it out.")
    return version


def _refuse_others(given: Mapping[str, str]) -> None:
    if given:
        raise BadRequestError(f"Parameter {min(given)}: unknown.")


def _status(text: str, code: int = 200) -> Response:
    return Response(answers.pretty_json({"status": text}), status=code, content_type="application/json")
