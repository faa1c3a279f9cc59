"""The table of the keys of config.properties, each also `SERVING_<NAME>`, and of unused ones. Data."""

from __future__ import annotations

from frame.config.forms import parse_address, parse_devices, parse_pattern
from frame.config.keys import Key, UnusedKey

SERVER_KEYS: tuple[Key, ...] = (
    Key(name="inference_address", kind=str, default=parse_address("http://127.0.0.1:8080"),
        parse=parse_address, doc="Where requests come in: http(s)://host[:port] or unix:/path."),
    Key(name="management_address", kind=str, default=None, parse=parse_address,
        doc="Where /models and /server/metrics are; unset: at a loopback inference_address, else nowhere."),
    Key(name="management_token_file", kind=str, default=None,
        doc="File with the token of routes that change something; FRAME_MANAGEMENT_TOKEN wins."),
    Key(name="model_snapshot", kind=str, default=None,
        doc="File that keeps what was registered, for the next start; unset: it is forgotten."),
    Key(name="model_url_pattern", kind=str, default=None, parse=parse_pattern,
        doc="Regular expression that a url to register must match as a whole."),
    Key(name="http_server", kind=str, default="hypercorn", choices=("hypercorn", "uvicorn"),
        doc="hypercorn (HTTP/1.1, HTTP/2) or uvicorn (HTTP/1.1, faster)."),
    Key(name="model_store", kind=str, default=None, doc="Folder of models."),
    Key(name="load_models", kind=str, default="ALL",
        doc="ALL of the store, NONE, or a list by commas: [name[:version[:engine[:devices]]]=]url."),
    Key(name="wait_model_loading", kind=bool, default=True,
        doc="Load the models before the port is opened."),
    Key(name="allow_multi_status", kind=bool, default=False,
        doc="/ping answers 207 instead of 200 while a model is loading."),
    Key(name="load_on_devices", kind=str, default=("*",), parse=parse_devices,
        doc="Default of load_on_devices of the models."),
    Key(name="job_queue_size", kind=int, default=1000, minimum=1,
        doc="Default of job_queue_size of the models."),
    Key(name="max_idle_time", kind=int, default=60, minimum=0,
        doc="Default of max_idle_time of the models, in seconds."),
    Key(name="batch_size", kind=int, default=1, minimum=1, doc="Default of batch_size of the models."),
    Key(name="max_batch_delay", kind=int, default=100, minimum=0,
        doc="Default of max_batch_delay of the models, in milliseconds."),
    Key(name="reserved_memory_mb", kind=int, default=500, minimum=0,
        doc="Default of reserved_memory_mb of the models."),
    Key(name="retry_threshold", kind=int, default=5, minimum=0,
        doc="Default of retry_threshold of the models."),
    Key(name="load_on_demand", kind=bool, default=False,
        doc="Default of load_on_demand of the models."),
    Key(name="cpu_threads", kind=int, default=None, minimum=1,
        doc="Threads that all CPU workers together may compute with; unset: the cores of this process."),
    Key(name="predict_timeout", kind=float, default=120.0, minimum=0.001, variables=("PREDICT_TIMEOUT",),
        doc="Default of option.predict_timeout of the models, in seconds."),
    Key(name="model_loading_timeout", kind=float, default=240.0, minimum=0.001,
        variables=("MODEL_LOADING_TIMEOUT",),
        doc="Default of option.model_loading_timeout of the models, in seconds."),
    Key(name="max_request_size", kind=int, default=67_108_864, minimum=1,
        doc="Bytes of a request's body; a larger one is answered 413."),
    Key(name="max_queued_bytes", kind=int, default=None, minimum=1,
        doc="Bytes of all bodies in the router, beyond it 503; unset: a quarter of the memory, <= 1 GiB."),
    Key(name="chunked_read_timeout", kind=float, default=120.0, minimum=0.001,
        doc="Seconds to wait for each piece of a streamed answer."),
    Key(name="drain_timeout", kind=float, default=30.0, minimum=0,
        doc="Seconds that running requests get after SIGTERM."),
    Key(name="fail_fast", kind=bool, default=False,
        doc="End the server (exit code 1) when a model of the startup list does not load."),
    Key(name="cors_allowed_origin", kind=str, default=None,
        doc="Access-Control-Allow-Origin of every answer."),
    Key(name="cors_allowed_methods", kind=str, default=None,
        doc="Access-Control-Allow-Methods of every answer."),
    Key(name="cors_allowed_headers", kind=str, default=None,
        doc="Access-Control-Allow-Headers of every answer."),
    Key(name="private_key_file", kind=str, default=None, doc="PEM file of the private key of https."),
    Key(name="certificate_file", kind=str, default=None, doc="PEM file of the certificate of https."),
    Key(name="keystore", kind=str, default=None, doc="Key store of https, instead of the two PEM files."),
    Key(name="keystore_pass", kind=str, default="changeit", doc="Password of the key store."),
    Key(name="keystore_type", kind=str, default="PKCS12", choices=("PKCS12",),
        doc="Format of the key store."),
    Key(name="bad_request_http_code", kind=int, default=400, minimum=400, maximum=599,
        doc="Status of an answer to bad input."),
    Key(name="wlm_error_http_code", kind=int, default=503, minimum=400, maximum=599,
        doc="Status while a model is not ready."),
    Key(name="throttle_error_http_code", kind=int, default=503, minimum=400, maximum=599,
        doc="Status when a queue is full."),
    Key(name="server_error_http_code", kind=int, default=500, minimum=400, maximum=599,
        doc="Status of any other failure."),
    Key(name="request_id_header_key", kind=str, default="x-request-id", parse=str.lower,
        doc="Header with the client's request id, in lower case."),
    Key(name="allow_request_handler_override", kind=bool, default=False,
        variables=("ALLOW_REQUEST_HANDLER_OVERRIDE",),
        doc="Let a request's header `handler` choose the handler function."),
    Key(name="cache_dir", kind=str, default=None, variables=("DJL_CACHE_DIR",),
        doc="Folder of extracted archives and environments; unset: ~/.cache/frame."),
)  # fmt: skip
"""Keys of the server with a meaning here, in the order of the reference."""

_NO_GRPC = "gRPC is not served; use HTTP"
_NO_RATE = "watch the metrics of /server/metrics"

UNUSED_SERVER_KEYS: tuple[UnusedKey, ...] = (
    UnusedKey(name="number_of_netty_threads", instead="http_server=uvicorn is the faster HTTP server"),
    UnusedKey(name="cluster_address", instead="serve each node by itself"),
    UnusedKey(name="timeout_http_code", instead="a time-out is answered with wlm_error_http_code"),
    UnusedKey(name="error_rate_wlm", instead=_NO_RATE),
    UnusedKey(name="error_rate_server", instead=_NO_RATE),
    UnusedKey(name="error_rate_any", instead=_NO_RATE),
    UnusedKey(name="error_rate_model", instead=_NO_RATE),
    UnusedKey(name="plugin_folder", instead="install plugins with pip; `frame engines` lists them"),
    UnusedKey(name="use_native_io", instead="Unix sockets always work"),
    UnusedKey(name="io_ratio", instead="there is nothing to set"),
    UnusedKey(name="grpc_address", instead=_NO_GRPC),
    UnusedKey(name="grpc_port", instead=_NO_GRPC),
    UnusedKey(name="grpc_max_connection_age", instead=_NO_GRPC),
    UnusedKey(name="grpc_max_connection_grace", instead=_NO_GRPC),
    UnusedKey(name="WEB_ROOT", instead="serve static files with a web server"),
    UnusedKey(name="debug", instead="use the log level of the command line"),
)
"""Keys of DJL Serving's config.properties without a meaning here."""

UNUSED_VARIABLES: tuple[UnusedKey, ...] = (
    UnusedKey(name="SERVING_PROMETHEUS", instead="/server/metrics is always there"),
    UnusedKey(name="SERVING_FEATURES", instead="install the engine's plugin"),
    UnusedKey(name="SERVING_OPTS", instead="it set Java's options"),
    UnusedKey(name="SERVING_DOWNLOAD_DIR", instead="set cache_dir"),
    UnusedKey(name="SERVING_HEALTH_CHECK_OVERRIDE", instead="raise retry_threshold"),
    *(
        UnusedKey(name=f"SERVING_{name}", instead="answers are not cached")
        for name in (
            "CACHE_MULTITENANT", "CACHE_BATCH", "MEMORY_CACHE_CAPACITY", "DDB_CACHE", "DDB_TABLE_NAME",
            "S3_CACHE", "S3_CACHE_BUCKET", "S3_CACHE_KEY_PREFIX", "S3_CACHE_AUTOCREATE",
        )
    ),
    UnusedKey(name="HF_MODEL_ID", instead="put the model into the store"),
)  # fmt: skip
"""Environment variables of DJL Serving without a meaning here; one warning each when set."""
