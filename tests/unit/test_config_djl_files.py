"""Configuration files written for DJL Serving start as they are."""

from __future__ import annotations

import pytest
from frame.api import EngineSpec
from frame.config.keys import ARGUMENTS
from frame.config.layers import file_layer
from frame.config.models import ModelIdentity, build_model_config
from frame.config.properties import parse_properties
from frame.config.servers import build_server_config
from frame.config.settings import Source
from frame.worker.codecs.images import KEYS as IMAGE_KEYS

BATCHING = """
job_queue_size=100
batch_size=4
max_dynamic_batch_size=4
max_batch_delay=1
max_idle_time=3
minWorkers=2
maxWorkers=3
gpu.minWorkers=1
gpu.maxWorkers=2
cpu.minWorkers=1
cpu.maxWorkers=2
nc.minWorkers=1
load_on_devices=0;1
required_memory_mb=1024
gpu.required_memory_mb=1024
reserved_memory_mb=1024
gpu.reserved_memory_mb=1024
retry_threshold=10
log_request_metric=true
metrics_aggregation=1000
"""
PYTHON_OPTIONS = """
engine=Python
option.entryPoint=djl_python.huggingface
option.handler=handle
option.pythonExecutable=python3
option.env=A=1,B=2
option.predict_timeout=240
option.model_loading_timeout=1800
option.parallel_loading=true
option.tensor_parallel_degree=max
option.pipeline_parallel_degree=1
option.mpi_mode=true
option.use_passive_workers=false
option.async_mode=true
option.rolling_batch=auto
option.max_rolling_batch_size=32
option.enable_venv=true
option.model_id=s3://bucket/model
option.s3url=s3://bucket/model
option.speculative_draft_model=gpt2
option.max_output_size=60
option.enable_lora=true
option.enable_stateful_sessions=true
option.lmcache_auto_config=true
option.revision=main
option.trust_remote_code=true
option.dtype=fp16
option.task=text-generation
option.output_formatter=json
option.enable_streaming=huggingface
option.quantize=bitsandbytes8
option.gpu_memory_utilization=0.9
"""
OTHER_OPTIONS = """
engine=OnnxRuntime
option.modelName=net
option.mapLocation=true
option.extraFiles=a.txt
option.interOpNumThreads=1
option.intraOpNumThreads=1
option.executionMode=SEQUENTIAL
option.optLevel=BASIC_OPT
option.memoryPatternOptimization=true
option.cpuArenaAllocator=true
option.disablePerSessionThreads=true
option.customOpLibrary=lib.so
option.ortDevice=TensorRT
option.optimization=O2
"""
ARGUMENT_LINES = """
translatorFactory=ai.djl.modality.cv.translator.ImageClassificationTranslatorFactory
translator=Foo
application=cv/image_classification
batchifier=stack
width=224
height=224
centerCrop=true
applySoftmax=true
topK=5
synset=a,b
synsetFileName=synset.txt
synsetUrl=https://example.com/synset.txt
"""
SERVER_FILE = """
inference_address=http://0.0.0.0:8080
management_address=http://0.0.0.0:8080
cluster_address=http://0.0.0.0:8888
model_store=models
load_models=ALL
wait_model_loading=true
allow_multi_status=true
model_url_pattern=.*
load_on_devices=*
job_queue_size=1000
max_idle_time=60
batch_size=1
max_batch_delay=300
reserved_memory_mb=500
number_of_netty_threads=0
max_request_size=67108864
chunked_read_timeout=60
cors_allowed_origin=*
cors_allowed_methods=GET, POST
cors_allowed_headers=X-Custom-Header
keystore=build/tmp/keystore.p12
keystore_pass=changeit
keystore_type=PKCS12
private_key_file=key.pem
certificate_file=certs.pem
plugin_folder=plugins
bad_request_http_code=400
wlm_error_http_code=503
throttle_error_http_code=429
server_error_http_code=500
timeout_http_code=408
error_rate_wlm=10/PT5M
error_rate_server=10
error_rate_any=10
error_rate_model=10
request_id_header_key=x-request-id
use_native_io=true
io_ratio=50
grpc_address=127.0.0.1
grpc_port=8082
grpc_max_connection_age=1
grpc_max_connection_grace=1
WEB_ROOT=public
debug=true
"""


def check(text, *, open_options):
    server = build_server_config([], "", {}, {}, lenient=False, memory_bytes=2**30)
    identity = ModelIdentity(
        name="m",
        version=None,
        path="/m",
        model_file=None,
        spec=EngineSpec(name="e", api=(1, 1), target="x:X", open_options=open_options),
        engine_source=Source("default", ""),
    )
    return build_model_config(identity, [file_layer(parse_properties(text, "f"), "f")], server, lenient=False)


@pytest.mark.parametrize(
    ("text", "open_options"),
    [
        ("engine=Rubikon\n", True),
        (BATCHING + PYTHON_OPTIONS + ARGUMENT_LINES, True),
        (BATCHING + OTHER_OPTIONS + ARGUMENT_LINES, False),
    ],
    ids=["blog", "python", "other"],
)
def test_model_file_starts_without_lenient(text, open_options):
    assert check(text, open_options=open_options).problems == ()


def test_server_file_starts_without_lenient():
    properties = parse_properties(SERVER_FILE, "config.properties")
    config = build_server_config(properties, "f", {}, {}, lenient=False, memory_bytes=2**30)
    assert config.chunked_read_timeout == 60.0
    assert len(config.warnings) == 16


def test_keys_that_declare_an_image_are_arguments():
    assert set(IMAGE_KEYS) <= set(ARGUMENTS)
