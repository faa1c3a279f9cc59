"""The OpenAPI 3.1 description of a server, built from its route table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from frame import __version__
from frame.config.keys import MODEL_KEYS
from frame.http.management import LEVELS
from frame.http.openapi_schemas import TEXT, Json, ref, schemas
from frame.http.routes import ANY_METHOD, Endpoint, RouteTable

_PARAMETER_TEXT = {
    "workflow": "Name of a workflow",
    "model": "Name of a model",
    "version": "Version of the model",
}

_ERROR_TEXT = {
    "400": "The request is wrong; the message says which input and what was expected",
    "401": "The management token is missing or wrong",
    "403": "Without a management token: not for web pages",
    "409": "A model of that name and version is there already",
    "500": "The model did not load; the message says why",
    "404": "No such model or path",
    "405": "The path exists, the method does not",
    "413": "The body is larger than max_request_size",
    "424": "The model's own code failed",
    "503": "The queue is full, or the model is not ready; see Retry-After",
    "507": "Memory was not enough",
}


def openapi_document(table: RouteTable, *, title: str = "Frame") -> Json:
    """Describe every endpoint of `table` as an OpenAPI 3.1 document.

    OpenAPI has no word for "any method": such endpoints are described as POST, the method that clients use.
    """
    paths: dict[str, Json] = {}
    for endpoint in table.endpoints:
        for method in endpoint.methods:
            verb = "post" if method == ANY_METHOD else method.lower()
            paths.setdefault(endpoint.path, {})[verb] = _operation(endpoint)
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": __version__},
        "paths": paths,
        "components": {"schemas": schemas()},
    }


def _operation(endpoint: Endpoint) -> Json:
    parameters = [_path_parameter(name) for name in endpoint.parameters]
    parameters += _QUERY_PARAMETERS.get(endpoint.name, _QUERY_PARAMETERS.get(endpoint.path, []))
    operation: Json = {
        "operationId": endpoint.name,
        "tags": [endpoint.route_class],
        "summary": endpoint.summary,
        "responses": _responses(endpoint),
    }
    if parameters:
        operation["parameters"] = parameters
    if (given := _BODIES.get(endpoint.name)) is not None:
        operation["requestBody"] = {
            "content": {"application/json": {"schema": _settings(given, is_open=given in _OPEN)}}
        }
    if endpoint.name == "set_traffic":
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": ref("TrafficRules")}},
        }
    if endpoint.plane == "data":
        operation["requestBody"] = {"content": {"application/json": {}, "*/*": {}}}
    return operation


def _path_parameter(name: str) -> Json:
    text = _PARAMETER_TEXT.get(name, name)
    return {"name": name, "in": "path", "required": True, "description": text, "schema": TEXT}


def _query(name: str, text: str, schema: Mapping[str, Any]) -> Json:
    return {"name": name, "in": "query", "required": False, "description": text, "schema": dict(schema)}


_EXPLAIN_FORMAT = [
    _query("format", "JSON or plain words; unset: by the Accept header", {"enum": ["json", "text"]})
]

_KEYS = {key.name: key for key in MODEL_KEYS}
_MOST = 999_999_999  # what a count in a query may be, as `control` and `management` read it
_NAME: Json = {"type": "string", "pattern": r"^[A-Za-z0-9_.\-]{1,255}$"}
_WORKERS: Json = {"type": "integer", "minimum": -1, "maximum": _MOST}
_YES: Json = {"type": "boolean", "default": True}
_WAITS = _query("synchronous", "Answer once the workers are up", _YES)


def _setting(name: str, text: str) -> Json:
    """Describe a parameter that is a number of serving.properties."""
    key = _KEYS[name]
    limits = {"minimum": key.minimum, "maximum": _MOST}
    return _query(name, text, {"type": "integer" if key.kind is int else "number", **limits})


_SCALE = [
    _query("min_worker", "Fewest workers on each device; -1: as it is", _WORKERS),
    _query("max_worker", "Most workers on each device; -1: as it is", _WORKERS),
    _query("device", "Only on this device, or kind of device", TEXT),
    _WAITS,
]
_CHANGE = [
    _setting("job_queue_size", "Requests that may wait"),
    _setting("batch_size", "Requests in a batch, as many as the workers were loaded for at most"),
    _setting("max_batch_delay", "Milliseconds that a batch waits for more requests"),
    _setting("max_idle_time", "Seconds for which a worker may be one too many"),
    _setting("request_timeout", "Seconds from admission to answer"),
]
_REGISTRATION = [
    _query("url", "Folder or archive of the model", TEXT) | {"required": True},
    _query("model_name", "Its name; absent: from the url", _NAME),
    _query("model_version", "Its version", _NAME),
    _query("engine", "Its engine; absent: from its files", TEXT),
    _query("device", "Where it is put, as load_on_devices", TEXT),
    _setting("job_queue_size", "Requests that may wait"),
    _setting("batch_size", "Requests in a batch"),
    _setting("max_batch_delay", "Milliseconds that a batch waits for more requests"),
    _setting("max_idle_time", "Seconds for which a worker may be one too many"),
    *_SCALE[:2],
    _WAITS,
]

_WORKFLOW = [
    {**_query("url", "A workflow's file, or its folder or archive", TEXT), "required": True},
    _query("workflow_name", "Its name; absent: as its file says", _NAME),
    _query("model_version", "Its version; absent: as its file says", _NAME),
    _WAITS,
]
_BODIES = {
    "register_workflow": _WORKFLOW,
    "register_model": _REGISTRATION,
    "scale_model": _SCALE,
    "scale_model_version": _SCALE,
    "scale_workflow": _SCALE,
    "scale_workflow_version": _SCALE,
    "change_model": _CHANGE,
    "change_model_version": _CHANGE,
}

_OPEN = (_REGISTRATION, _CHANGE)
"""Any other key of serving.properties may be given as well."""

_PAGE_TOKEN: Json = {"type": "string", "pattern": "^[0-9]{1,9}$"}
_LEVEL: Json = {"type": "string", "enum": list(LEVELS), "default": "info"}
_METRIC_NAMES = [
    _query("name[]", "Only metrics of this name; may be repeated", {"type": "array", "items": TEXT})
]

_PAGE = [
    _query("limit", "Entries on a page", {"type": "integer", "minimum": 1, "maximum": 100, "default": 100}),
    _query("next_page_token", "nextPageToken of the page before", _PAGE_TOKEN),
]

_QUERY_PARAMETERS: dict[str, list[Json]] = {
    "register_model": _REGISTRATION,
    "scale_model": _SCALE,
    "scale_model_version": _SCALE,
    "change_model": _CHANGE,
    "change_model_version": _CHANGE,
    "unregister_model": [],
    "register_workflow": _WORKFLOW,
    "scale_workflow": _SCALE,
    "scale_workflow_version": _SCALE,
    "list_workflows": _PAGE,
    "list_models": _PAGE,
    "set_logging": [_query("level", "Least level that is logged", _LEVEL)],
    "/models/{model}/explain": _EXPLAIN_FORMAT,
    "/models/{model}/{version}/explain": _EXPLAIN_FORMAT,
    "/server/metrics": _METRIC_NAMES,
    "/metrics": _METRIC_NAMES,
    "/invocations": [
        _query("model_name", "The model to run; may be left out when only one is served", TEXT),
        _query("model_version", "Its version", TEXT),
    ],
}


def _responses(endpoint: Endpoint) -> Json:
    if endpoint.plane == "data":
        text = "The model's answer, in the type that Accept asked for"
        return {"200": {"description": text, "content": {"*/*": {}}}} | _errors(
            "400", "404", "413", "424", "503", "507"
        )
    return _CONTROL_RESPONSES[endpoint.name] | (_errors("404") if endpoint.parameters else {})


def _errors(*codes: str) -> Json:
    return {code: _json_answer(_ERROR_TEXT[code], "Error") for code in codes}


def _json_answer(text: str, schema: str) -> Json:
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    return {"description": text, "content": content}


def _settings(parameters: list[Json], *, is_open: bool) -> Json:
    """Return the schema of the same parameters as a JSON object, to which others may come if it is open."""
    return {
        "type": "object",
        "required": [item["name"] for item in parameters if item["required"]],
        "properties": {item["name"]: item["schema"] for item in parameters},
        "additionalProperties": {"type": ["string", "number", "boolean"]} if is_open else False,
    }


def _done(text: str, *more: str) -> Json:
    return {"200": _json_answer(text, "Done")} | _errors("400", "401", "403", *more)


_SCALED = _done("As many workers are up", "503") | {"202": _json_answer("They are on their way", "Done")}
_EXPLANATION = _json_answer("Sentences, advice and the records that they are made from", "Explanation")
_EXPLANATION["content"]["text/plain"] = {"schema": TEXT}
_EXPLAINED: Json = {"200": _EXPLANATION} | _errors("400", "503")

_METRICS: Json = {"200": {"description": "Metrics", "content": {"text/plain": {"schema": TEXT}}}}

_CONTROL_RESPONSES: dict[str, Json] = {
    "ping": {
        "200": _json_answer("No model has failed", "Health"),
        "207": _json_answer("Some model is still loading, and allow_multi_status is set", "Health"),
        "500": _json_answer("Some model has failed", "Health"),
        "503": _json_answer("The server is ending", "Error"),
    },
    "describe_api": {"200": {"description": "This document", "content": {"application/json": {}}}},
    "list_models": {"200": _json_answer("A page of models", "ModelPage")} | _errors("400"),
    "describe_model": {"200": _json_answer("One element a version", "Descriptions")},
    "describe_model_version": {"200": _json_answer("An array of one element", "Descriptions")},
    "list_workflows": {"200": _json_answer("A page of workflows", "WorkflowPage")} | _errors("400"),
    "describe_workflow": {"200": _json_answer("One element a version", "Descriptions")},
    "describe_workflow_version": {"200": _json_answer("An array of one element", "Descriptions")},
    "register_workflow": _done("All of its models are up", "409", "500", "503")
    | {"202": _json_answer("Their workers are on their way", "Done")},
    "scale_workflow": _SCALED,
    "scale_workflow_version": _SCALED,
    "unregister_workflow": _done("Its workers are gone"),
    "unregister_workflow_version": _done("Its workers are gone"),
    "explain_model": _EXPLAINED,
    "explain_model_version": _EXPLAINED,
    "register_model": _done("The model is up", "409", "500", "503")
    | {"202": _json_answer("Its workers are on their way", "Done")},
    "scale_model": _SCALED,
    "scale_model_version": _SCALED,
    "change_model": _done("They have changed", "500", "503"),
    "change_model_version": _done("They have changed", "500", "503"),
    "describe_traffic": {"200": _json_answer("The rules, and what came of them", "Traffic")},
    "set_traffic": _done("The rules are in force"),
    "forget_traffic": _done("The newest version gets all requests that name none"),
    "unregister_model": _done("Its workers are gone"),
    "unregister_model_version": _done("Its workers are gone"),
    "set_logging": _done("The level is set"),
    "metrics": _METRICS,
    "metrics_short": _METRICS,
}
