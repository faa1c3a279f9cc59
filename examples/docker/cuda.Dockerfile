# Frame with ONNX, TorchScript, TensorFlow and Python on CUDA: torch's and TensorFlow's wheels bring CUDA along.
#   docker build -f examples/docker/cuda.Dockerfile -t frame:cuda .
#   docker run --gpus all -p 8080:8080 -v "$PWD/model_store:/opt/ml/model:ro" frame:cuda
FROM python:3.11-slim
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1
WORKDIR /opt/frame
RUN python -m venv /opt/venv && /opt/venv/bin/pip install torch
COPY core core
COPY plugins plugins
RUN /opt/venv/bin/pip install "./core[uvicorn,tls,s3,hub]" ./plugins/python "./plugins/onnx[gpu]" \
    "./plugins/torchscript[torch]" "./plugins/tf[gpu]"
COPY examples/docker/serve /usr/local/bin/serve
RUN useradd --create-home frame && mkdir -p /var/cache/frame && chown frame /var/cache/frame
ENV PATH=/opt/venv/bin:$PATH XDG_CACHE_HOME=/var/cache
USER frame
EXPOSE 8080
LABEL com.amazonaws.sagemaker.capabilities.multi-models=true
LABEL com.amazonaws.sagemaker.capabilities.accept-bind-to-port=true
CMD ["serve"]
