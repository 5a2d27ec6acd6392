# Two stages: the first builds the wheel and installs it into /opt/keda-scaler, the second takes that
# folder and nothing else. `make image` builds it.
#
# 3.11 is the version that requirements/ are locked for. A tag moves: a release gives its digest as
# well, with --build-arg BASE=python:3.11-slim-bookworm@sha256:...
ARG BASE=python:3.11-slim-bookworm
FROM ${BASE} AS build

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore

# Without pip: what runs never installs anything.
RUN python -m venv --without-pip /opt/keda-scaler
WORKDIR /src

# Dependencies first: this layer changes only when they do.
COPY requirements/runtime.txt requirements/
RUN pip --python /opt/keda-scaler/bin/python install --no-compile \
    --require-hashes --only-binary :all: -r requirements/runtime.txt

COPY requirements/build.txt requirements/
RUN pip install --require-hashes --only-binary :all: -r requirements/build.txt

COPY pyproject.toml README.md LICENSE ./
COPY keda_scaler keda_scaler
RUN pip wheel --no-deps --no-build-isolation --wheel-dir /wheel .
# Bytecode that does not depend on the times of files, which image builders may rewrite.
RUN pip --python /opt/keda-scaler/bin/python install --no-compile --no-deps --no-index /wheel/*.whl \
    && python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/keda-scaler/lib

FROM ${BASE}

ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="keda-scaler" \
      org.opencontainers.image.description="A KEDA external scaler for LLM inference servers" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

COPY --from=build /opt/keda-scaler /opt/keda-scaler

# Log lines leave at once; nothing is written to the file system, which may be read-only.
ENV PATH="/opt/keda-scaler/bin:${PATH}" \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1

# A number, so that Kubernetes can tell that it is not root (runAsNonRoot). It owns no file here.
USER 65532:65532

# 6000 is gRPC, for KEDA. 8080 is HTTP, which listens on loopback unless --http-address says else.
EXPOSE 6000 8080

# Drains on SIGTERM: streams end with OK, calls finish. No HEALTHCHECK: Kubernetes has its probes.
STOPSIGNAL SIGTERM
ENTRYPOINT ["keda-scaler"]
CMD ["serve"]
