# syntax=docker/dockerfile:1
# evalrouter's image: docs/how-to/containers.md.
#
#   docker build -t evalrouter .
#   docker build -t evalrouter:local --build-arg VARIANT=local .
#
# BASE needs Debian's python3 (3.11 or newer) with venv. VARIANT is one of
#   core   the router, with PostgreSQL, S3, parquet, OpenTelemetry and all metrics that need no model
#   local  also models on this machine's CPU: transformers, torch and llama.cpp
#   ray    also Ray Serve
# EXTRAS are further extras of pyproject.toml: --build-arg EXTRAS=hub,pandas

ARG BASE=python:3.12-slim

FROM ${BASE} AS build
ARG VARIANT=core
ARG EXTRAS=
# pip's own settings, of this stage alone: the final image and its history do not have them.
# Those that are empty are none to pip.
ARG PIP_INDEX_URL= PIP_EXTRA_INDEX_URL= PIP_FIND_LINKS= PIP_CERT= PIP_TRUSTED_HOST=
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
COPY constraints.txt pyproject.toml README.md LICENSE ./
RUN python3 -m venv /opt/build \
 && /opt/build/bin/pip install --quiet -c constraints.txt 'cyclonedx-bom>=7,<8' hatchling \
 && python3 -m venv --without-pip /opt/evalrouter
# What evalrouter needs, with nothing in its place yet: another commit needs no other layer.
RUN set -eu; \
    core=postgres,s3,otel,metrics,parquet; \
    case "$VARIANT" in \
      core) extras=$core ;; \
      local) extras=$core,local,llamacpp ;; \
      ray) extras=$core,ray ;; \
      *) echo "VARIANT is core, local or ray, not '$VARIANT'" >&2; exit 2 ;; \
    esac; \
    mkdir router providers evaluators serve; \
    /opt/build/bin/pip --python /opt/evalrouter/bin/python install --quiet \
      -c constraints.txt ".[${extras}${EXTRAS:+,$EXTRAS}]"; \
    # Tests of NumPy and SciPy.
    rm -rf /opt/evalrouter/lib/python3*/site-packages/numpy/tests \
      /opt/evalrouter/lib/python3*/site-packages/numpy/*/tests \
      /opt/evalrouter/lib/python3*/site-packages/scipy/*/tests \
      /opt/evalrouter/lib/python3*/site-packages/scipy/*/*/tests; \
    if [ "$VARIANT" = local ]; then \
      /opt/evalrouter/bin/python -c 'import sys, torch; torch.version.cuda and sys.exit( \
        "this torch is a build for CUDA, several GB: give the index of the CPU builds as " \
        "--build-arg PIP_EXTRA_INDEX_URL")'; \
    fi
COPY router router
COPY providers providers
COPY evaluators evaluators
COPY serve serve
RUN /opt/build/bin/pip wheel --quiet --no-deps --no-build-isolation --wheel-dir /opt/build/wheels . \
 && /opt/build/bin/pip --python /opt/evalrouter/bin/python install --quiet --no-deps --no-index \
      --force-reinstall /opt/build/wheels/evalrouter-*.whl \
 && /opt/build/bin/cyclonedx-py environment --output-reproducible --of JSON \
      --pyproject pyproject.toml -o /opt/evalrouter/sbom.cdx.json /opt/evalrouter/bin/python
COPY deploy/image/healthcheck.py /opt/evalrouter/healthcheck.py

FROM ${BASE}
ARG VARIANT=core
ARG VERSION=0.1.0
ARG REVISION=
LABEL org.opencontainers.image.title="evalrouter" \
      org.opencontainers.image.description="An OpenAI-compatible LLM router that evaluates what it routes." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      io.evalrouter.variant="${VARIANT}" \
      io.evalrouter.sbom="/opt/evalrouter/sbom.cdx.json"
# tini reaps what processes leave behind; KubeRay's health checks of Ray use wget.
RUN apt-get update -qq \
 && apt-get install -y -qq --no-install-recommends tini $([ "$VARIANT" != ray ] || echo wget) \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/*
# A number, so that Kubernetes can see that it is not root. Any other number works as well, as long
# as the volume at /data is that user's.
RUN mkdir /data && chown 10001:10001 /data && chmod 0770 /data
COPY --from=build /opt/evalrouter /opt/evalrouter
ENV PATH=/opt/evalrouter/bin:$PATH \
    EVALROUTER_DATA=/data \
    HOME=/data \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 4000
# SIGTERM lets open requests finish: for server.drain_seconds (30) and five more at most. Allow as
# much before killing: `docker stop --time 40`.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s \
  CMD ["python3", "/opt/evalrouter/healthcheck.py"]
ENTRYPOINT ["tini", "--", "evalrouter"]
CMD ["serve", "--host", "0.0.0.0", "--port", "4000"]
