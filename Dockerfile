# syntax=docker/dockerfile:1

# -- builder: the environment, with every dependency at the version pyproject.toml pins ---------------------------------
FROM python:3.13-slim AS builder

# Bytecode is compiled here, once: the runtime user cannot write it, and every start would compile anew.
ENV UV_COMPILE_BYTECODE=1 \
    UV_LINK_MODE=copy \
    UV_PROJECT_ENVIRONMENT=/app/.venv \
    UV_PYTHON_DOWNLOADS=never

RUN pip install --no-cache-dir --root-user-action=ignore uv==0.13.8

WORKDIR /src

# Dependencies change less often than code: a layer of their own.
COPY pyproject.toml .python-version ./
COPY eventstore/pyproject.toml eventstore/
COPY sdk/pyproject.toml sdk/
COPY router/pyproject.toml router/
COPY chaos/pyproject.toml chaos/
RUN uv sync --no-dev --no-install-workspace

COPY . .
RUN uv sync --no-dev --no-editable

# -- runtime: Python, that environment, and a user who owns nothing -----------------------------------------------------
FROM python:3.13-slim AS runtime

LABEL org.opencontainers.image.title="AegisIPC" \
      org.opencontainers.image.description="Durable calls between services, on NATS JetStream" \
      org.opencontainers.image.licenses="Apache-2.0"

RUN groupadd --system --gid 10001 aegis \
    && useradd --system --uid 10001 --gid aegis --no-create-home --shell /usr/sbin/nologin aegis

COPY --from=builder /app/.venv /app/.venv

ENV PATH=/app/.venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1

WORKDIR /app
USER 10001:10001

# Reads the log at AEGIS_URL. Unhealthy when no server answers or there is no log; healthy without any router, as
# calls go on without one.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --start-interval=1s --retries=3 \
    CMD ["aegis", "status"]

STOPSIGNAL SIGTERM
ENTRYPOINT ["aegis"]
CMD ["--help"]
