# Frame for large models: DeepSpeed with the compiler that it builds its kernels with, and Open MPI from its wheel.
#   docker build -f examples/docker/deepspeed.Dockerfile -t frame:deepspeed .
#   docker run --gpus all --shm-size=8g -p 8080:8080 -v "$PWD/model_store:/opt/ml/model:ro" frame:deepspeed
FROM nvidia/cuda:12.8.1-devel-ubuntu24.04
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 python3-dev python3-venv ninja-build openssh-client \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/frame
RUN python3 -m venv /opt/venv && /opt/venv/bin/pip install torch
COPY core core
COPY plugins plugins
RUN /opt/venv/bin/pip install "./core[uvicorn,tls,s3,hub]" ./plugins/python ./plugins/deepspeed
COPY examples/docker/serve /usr/local/bin/serve
RUN useradd --create-home frame && mkdir -p /var/cache/frame && chown frame /var/cache/frame
ENV PATH=/opt/venv/bin:$PATH XDG_CACHE_HOME=/var/cache
USER frame
EXPOSE 8080
LABEL com.amazonaws.sagemaker.capabilities.multi-models=true
LABEL com.amazonaws.sagemaker.capabilities.accept-bind-to-port=true
CMD ["serve"]
