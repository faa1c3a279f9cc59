"""The codec of DJL's routes: bodies by content type to tensors or parts, outputs by Accept to bodies.

Imports numpy only when there are tensors to read or write, so that handlers run where numpy is not installed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from frame.contract.properties import Properties
from frame.contract.requests import Buffer, Part, RequestError, Response
from frame.contract.signatures import Signature
from frame.wire.calls import BY_POSITION_PROPERTY
from frame.worker.codecs.multipart import is_form, split_form

if TYPE_CHECKING:
    from frame.contract.models import Tensors
    from frame.worker.codecs.fitting import Array, RequestTensors

JSON = "application/json"
NDLIST = "tensor/ndlist"
NPZ = "tensor/npz"
SAFETENSORS = "tensor/safetensors"
SUPPORTED = (JSON, NDLIST, NPZ, SAFETENSORS)
_UNTYPED = ("", "application/octet-stream")
_NDLIST_MAGIC = b"\x00\x04NDAR"
_NDLIST_MAGIC_AT = 4


def decode(
    parts: Sequence[Part], properties: Properties, signature: Signature | None
) -> Tensors | tuple[Part, ...]:
    """Read a request's body, which is its last part; query parameters come before it.

    With a signature its inputs are returned by name, in its order and dtypes, each with a batch axis. Without
    one, for a model that reads parts by itself, form bodies become one part for each field, after the query
    parameters; all other bodies stay as they are.

    Raises:
        RequestError: 400 for a malformed body or inputs that are not the signature's, 415 for its type.
    """
    content_type = properties.get("content-type", "")
    body = parts[-1].data if parts else b""
    if signature is None:
        if parts and is_form(content_type):
            return (*parts[:-1], *split_form(body, content_type))
        return tuple(parts)
    kind = media_type(content_type)
    if is_form(content_type):
        # What `curl -d '{"inputs": …}'` sends when it is not told the content type.
        if bytes(body[:1]) in (b"{", b"["):
            return _read(body, JSON, signature)
        return _from_fields(split_form(body, content_type), signature)
    if kind in _UNTYPED:
        kind = sniff(body)
    return _read(body, kind, signature, by_position=BY_POSITION_PROPERTY in properties)


def encode(outputs: Tensors, properties: Properties, signature: Signature) -> Response:
    """Write an answer in the format that `Accept` asks for, else in that of the request, else as JSON.

    Raises:
        RequestError: 406, the format cannot hold an output.
    """
    del signature  # `outputs` are in its order
    kind = _answer_type(properties)
    return Response(properties={"Content-Type": kind}, parts=(Part("data", _write(outputs, kind)),))


def media_type(content_type: str) -> str:
    """Return a content type without its parameters, in lower case."""
    return content_type.partition(";")[0].strip().lower()


def sniff(data: Buffer) -> str:
    """Tell the format of a body without a content type by its first bytes; JSON when nothing else fits."""
    head = bytes(data[: _NDLIST_MAGIC_AT + len(_NDLIST_MAGIC)])
    if head.startswith(b"PK"):
        return NPZ
    return NDLIST if head[_NDLIST_MAGIC_AT:] == _NDLIST_MAGIC else JSON


# --- requests -------------------------------------------------------------------------------------


def _read(body: Buffer, kind: str, signature: Signature, *, by_position: bool = False) -> RequestTensors:
    if kind == JSON or kind.endswith("+json"):
        from frame.worker.codecs import json_tensors

        return json_tensors.loads(body, signature)
    from frame.worker.codecs import fitting, ndlist, npz, safetensors

    readers = {NDLIST: ndlist.loads, NPZ: npz.loads, SAFETENSORS: safetensors.loads}
    if kind not in readers:
        raise RequestError(415, f"content type {kind[:100]} is not supported; send {', '.join(SUPPORTED)}")
    arrays = readers[kind](body)
    if by_position and {name for name, _ in arrays}.isdisjoint(spec.name for spec in signature.inputs):
        arrays = [(None, array) for _, array in arrays]  # where one name fits, an order would mix them up
    return fitting.fit(_named(arrays, signature), signature)


def _named(arrays: Sequence[tuple[str | None, Array]], signature: Signature) -> dict[str, Array]:
    """Give arrays without a name the signature's names, in its order."""
    if any(name is None or name == "" for name, _ in arrays):
        if len(arrays) != len(signature.inputs):
            from frame.worker.codecs.fitting import InputNamesError, describe_inputs

            expected = describe_inputs(signature)
            raise InputNamesError(
                400, f"expected {expected}, got {len(arrays)} arrays, not all of them named"
            )
        return {
            name or spec.name: array for (name, array), spec in zip(arrays, signature.inputs, strict=True)
        }
    return {name or "": array for name, array in arrays}


def _from_fields(fields: Sequence[Part], signature: Signature) -> RequestTensors:
    """Read a form: one field (or one named `data`) with the whole body, or a field for each input."""
    from frame.worker.codecs import fitting, json_tensors

    names = {spec.name for spec in signature.inputs}
    whole = next((field for field in fields if field.key == "data"), fields[0] if len(fields) == 1 else None)
    if whole is not None and whole.key not in names:
        return _read(whole.data, sniff(whole.data), signature)
    given = {field.key: field.data for field in fields}
    fitting.check_names(given, signature)
    arrays: dict[str, Array] = {}
    for spec in signature.inputs:
        only = Signature((spec,), ())
        kind = sniff(given[spec.name])
        if kind == JSON:
            arrays[spec.name] = json_tensors.load_value(given[spec.name], spec)
        else:
            arrays.update(_named([(None, array) for _, array in _binary(given[spec.name], kind)], only))
    return fitting.fit(arrays, signature)


def _binary(data: Buffer, kind: str) -> list[tuple[str | None, Array]]:
    from frame.worker.codecs import ndlist, npz

    return npz.loads(data) if kind == NPZ else ndlist.loads(data)


# --- answers --------------------------------------------------------------------------------------


def _answer_type(properties: Properties) -> str:
    """Return the media type of the answer."""
    request_type = media_type(properties.get("content-type", ""))
    own = request_type if request_type in SUPPORTED else JSON
    accept = properties.get("accept", "")
    if accept in ("", "*/*"):
        return own
    for wanted in _by_preference(accept):
        if wanted in SUPPORTED:
            return wanted
        if wanted == "*/*" or wanted == own.partition("/")[0] + "/*":
            return own
        if wanted in ("application/*", "tensor/*"):
            return JSON if wanted == "application/*" else NDLIST
    return own  # as DJL Serving does: an answer in another format says more than a refusal


def _by_preference(accept: str) -> list[str]:
    """Return the media types of an Accept header, the most wanted first."""
    ranked: list[tuple[float, str]] = []
    for item in accept[:1000].split(","):
        kind, _, parameters = item.partition(";")
        weight = 1.0
        for parameter in parameters.split(";"):
            key, _, value = parameter.partition("=")
            if key.strip().lower() == "q":
                weight = float(value) if value.strip().replace(".", "", 1).isdecimal() else 0.0
        if weight > 0:
            ranked.append((-weight, kind.strip().lower()))
    return [kind for _, kind in sorted(ranked, key=lambda pair: pair[0])]


def _write(outputs: Tensors, kind: str) -> bytes:
    if kind == JSON:
        from frame.worker.codecs import json_tensors

        return json_tensors.dumps(outputs)
    from frame.worker.codecs import fitting, ndlist, npz, safetensors

    writers: dict[str, Callable[[list[tuple[str, Array]]], bytes]] = {
        NDLIST: ndlist.dumps,
        NPZ: npz.dumps,
        SAFETENSORS: safetensors.dumps,
    }
    arrays = outputs.as_asked() if isinstance(outputs, fitting.RequestTensors) else outputs
    try:
        return writers[kind](list(arrays.items()))
    except ValueError as error:
        raise RequestError(406, f"{error}; accept {JSON} instead") from None
