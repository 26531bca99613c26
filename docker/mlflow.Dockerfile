# syntax=docker/dockerfile:1
# MLflow's server with passwords, on PostgreSQL: neither torch nor Ray, nor any code of ours but the way it is started.

ARG PYTHON=3.11-slim-bookworm

FROM python:${PYTHON} AS declared
WORKDIR /declared
COPY pyproject.toml requirements.lock docker/requirements.py ./
RUN python requirements.py server > server.txt

FROM python:${PYTHON}
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
RUN --mount=type=bind,from=declared,source=/declared/server.txt,target=/tmp/server.txt \
    --mount=type=bind,from=declared,source=/declared/requirements.lock,target=/tmp/requirements.lock \
    --mount=type=cache,target=/root/.cache/pip \
    pip install --constraint /tmp/requirements.lock --requirement /tmp/server.txt && pip check

ARG UID=1000
RUN install --directory --owner="${UID}" --group="${UID}" /artifacts
# What strangers have used to break in, or what tells others of us, is off in the image, wherever it runs.
ENV HOME=/tmp \
    USER=mlflow \
    MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false \
    MLFLOW_ALLOW_PICKLE_DESERIALIZATION=false \
    MLFLOW_DISABLE_TELEMETRY=true \
    DO_NOT_TRACK=true \
    MLFLOW_SERVER_ALLOWED_HOSTS=localhost:*,127.0.0.1:* \
    MLFLOW_SERVE_ARTIFACTS=true \
    MLFLOW_ARTIFACTS_DESTINATION=file:///artifacts
WORKDIR /app
USER ${UID}:${UID}
HEALTHCHECK --interval=30s --timeout=10s --start-period=120s --retries=4 \
    CMD ["python", "docker/entry/healthy.py", "http://127.0.0.1:5000/health"]
COPY docker/entry docker/entry

ARG COMMIT=unknown
LABEL org.opencontainers.image.title="amp-sweeps-mlflow" \
      org.opencontainers.image.description="MLflow's server with passwords, on PostgreSQL" \
      org.opencontainers.image.revision="${COMMIT}"
CMD ["docker/entry/mlflow.sh"]
