"""The shapes of answers and bodies in the OpenAPI description."""

from __future__ import annotations

from typing import Any

import msgspec

from frame.policy.traffic import TrafficRules

Json = dict[str, Any]

_STATUS = {"type": "string", "enum": ["READY", "PENDING", "FAILED"]}
TEXT: Json = {"type": "string"}
COUNT: Json = {"type": "integer", "minimum": 0}


def _object(required: str, /, **properties: Any) -> Json:
    return {"type": "object", "required": required.split(), "properties": properties}


def _array(items: Json) -> Json:
    return {"type": "array", "items": items}


def ref(name: str) -> Json:
    """Refer to one of `schemas`."""
    return {"$ref": f"#/components/schemas/{name}"}


def schemas() -> Json:
    """Return every named shape."""
    tensor = _object("name dtype", name=TEXT, dtype=TEXT, shape=_array({"type": "integer", "minimum": -1}))
    rank = _object("rank pid host", rank=COUNT, pid=COUNT, host=TEXT)
    worker = _object(
        "id startTime status", id=COUNT, pid=COUNT, startTime=TEXT, status=TEXT, ranks=_array(rank)
    )
    device = _object("deviceType deviceId", deviceType=TEXT, deviceId={"type": "integer", "minimum": -1})
    health = _object("status", status={"enum": ["Healthy", "Unhealthy", "PENDING", "FAILED"]}, reason=TEXT)
    listed = _object("modelName modelUrl status", modelName=TEXT, version=TEXT, modelUrl=TEXT, status=_STATUS)
    return {
        "Error": _object("code type message", code=COUNT, type=TEXT, message=TEXT),
        "Done": _object("status", status=TEXT),
        "Health": {"type": "object", "additionalProperties": health},
        "ModelPage": _object("models", models=_array(listed), nextPageToken=TEXT),
        "WorkflowPage": _object(
            "workflows",
            workflows=_array(_object("workflowName", workflowName=TEXT, version=TEXT)),
            nextPageToken=TEXT,
        ),
        "Descriptions": _array(
            _object(
                "workflowName models",
                workflowName=TEXT,
                version=TEXT,
                workflowUrl=TEXT,
                status=_STATUS,
                requests=COUNT,
                models=_array(ref("Model")),
            )
        ),
        "Tensor": tensor,
        "Worker": worker,
        "WorkerGroup": _object(
            "device minWorkers maxWorkers workers",
            device=device,
            minWorkers=COUNT,
            maxWorkers=COUNT,
            workers=_array(ref("Worker")),
        ),
        "Model": _model_schema(health["properties"]["status"]),
        "Explanation": _explanation_schema(),
        "Traffic": _traffic_schema(),
        **_RULES,
    }


_, _RULES = msgspec.json.schema_components([TrafficRules], ref_template="#/components/schemas/{name}")


def _traffic_schema() -> Json:
    millis: Json = {"type": "number", "minimum": 0}
    trial = _object("requests failures", requests=COUNT, failures=COUNT, p50Millis=millis, p95Millis=millis)
    difference = _object("requestId at", requestId=TEXT, at=TEXT)
    shadow: Json = {
        "type": "object",
        "properties": {"differences": _array(difference)},
        "additionalProperties": COUNT,
    }
    cause = {"enum": ["errors", "latency", "deaths", "failed"]}
    rollback = _object("version at cause reason", version=TEXT, at=TEXT, cause=cause, reason=TEXT)
    return _object(
        "modelName rules rollbacks",
        modelName=TEXT,
        rules=ref("TrafficRules"),
        trial={"type": "object", "additionalProperties": trial},
        shadow={"type": "object", "additionalProperties": shadow},
        rollbacks=_array(rollback),
    )


def _explanation_schema() -> Json:
    figures: Json = {"type": "object", "additionalProperties": {"type": ["number", "string"]}}
    change: Json = {"type": "object", "additionalProperties": TEXT}
    predicted: Json = {"type": "object", "additionalProperties": {"type": "number"}}
    record: Json = {"type": "object", "required": ["seconds_ago"]}
    return _object(
        "model sentences advice batches scalings choices deaths",
        model=TEXT,
        version=TEXT,
        sentences=_array(_object("about text figures", about=TEXT, text=TEXT, figures=figures)),
        advice=_array(
            _object(
                "change text predicted figures",
                change=change,
                text=TEXT,
                predicted=predicted,
                figures=figures,
            )
        ),
        batches=_array(record),
        scalings=_array(record),
        choices=_array(record),
        deaths=_array(record),
    )


def _model_schema(health: Json) -> Json:
    return _object(
        "modelName modelUrl batchSize queueSize requestInQueue status loadedAtStartup workerGroups",
        modelName=TEXT,
        modelUrl=TEXT,
        engine=TEXT,
        batchSize=COUNT,
        maxBatchDelayMillis=COUNT,
        maxIdleSeconds=COUNT,
        queueSize=COUNT,
        requestInQueue=COUNT,
        status=health,
        reason=TEXT,
        loadedAtStartup={"type": "boolean"},
        signature=_object("inputs outputs", inputs=_array(ref("Tensor")), outputs=_array(ref("Tensor"))),
        selfCheck={"type": "object"},
        settings={
            "type": "object",
            "additionalProperties": _object("value source", value=TEXT, source=TEXT),
        },
        log=_array(TEXT),
        workerGroups=_array(ref("WorkerGroup")),
    )
