# Frame with every engine that needs no GPU. At the repository's root:
#   docker build -f examples/docker/cpu.Dockerfile -t frame:cpu .
# To keep it small, let PIP_EXTRA_INDEX_URL (--build-arg) name the index of torch's builds for the CPU.
FROM python:3.11-slim
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1
WORKDIR /opt/frame
COPY constraints.txt ./
RUN python -m venv /opt/venv \
    && /opt/venv/bin/pip install -c constraints.txt pip \
    && /opt/venv/bin/pip install -c constraints.txt torch
COPY core core
COPY plugins plugins
RUN /opt/venv/bin/pip install -c constraints.txt "./core[uvicorn,tls,s3,hub]" ./plugins/python \
    "./plugins/onnx[cpu]" "./plugins/torchscript[torch]" "./plugins/tf[cpu]"
COPY examples/docker/serve /usr/local/bin/serve
RUN useradd --create-home frame && mkdir -p /var/cache/frame && chown frame /var/cache/frame
ENV PATH=/opt/venv/bin:$PATH XDG_CACHE_HOME=/var/cache
USER frame
EXPOSE 8080
LABEL com.amazonaws.sagemaker.capabilities.multi-models=true
LABEL com.amazonaws.sagemaker.capabilities.accept-bind-to-port=true
CMD ["serve"]
