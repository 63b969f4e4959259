# docker build -t redash-gateway .
# docker run -v ./config:/etc/redash-gateway:ro -v redash-gateway:/var/lib/redash-gateway -p 8080:8080 \
#     --read-only --tmpfs /tmp:size=600m --cap-drop ALL --security-opt no-new-privileges redash-gateway
#
# Settings in config.toml:
#   server.listen = "0.0.0.0:8080"
#   server.hosts with the host names that clients use
#   cache.store = "sqlite:/var/lib/redash-gateway/cache.db" (a relative path would start at the read-only /etc), or a Redis
# If Prometheus runs outside the container: admin.listen = "0.0.0.0:8081", reachable only for Prometheus. All but
# metrics and health then needs the token of admin.token_sha256.
#
# Debian's SQLite is older than 3.51.3. The gateway uses one connection only, which the fault of these versions (two
# connections can damage a WAL file) does not concern.

# Named by its tag, so that each build has Debian's latest security updates. For a build that can be repeated, name the
# digest as well, which `docker buildx imagetools inspect python:3.13-slim-trixie` shows:
#   docker build --build-arg PYTHON=python:3.13-slim-trixie@sha256:… .
ARG PYTHON=python:3.13-slim-trixie

FROM ${PYTHON} AS build
WORKDIR /src
# Everything from the index has the hash that `deploy/image/lock` has written, and nothing of it is run to be built.
COPY deploy/image/build.lock deploy/image/requirements.lock ./
RUN python -m venv /build \
    && /build/bin/pip install --no-cache-dir --require-hashes --only-binary :all: -r build.lock \
    && python -m venv --without-pip /opt/redash-gateway \
    && /build/bin/pip --python /opt/redash-gateway install \
        --no-cache-dir --require-hashes --only-binary :all: -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY gateway gateway
RUN /build/bin/pip wheel --no-cache-dir --no-index --no-deps --no-build-isolation --wheel-dir dist . \
    && /build/bin/pip --python /opt/redash-gateway install --no-cache-dir --no-index --no-deps dist/*.whl

FROM ${PYTHON}
LABEL org.opencontainers.image.title="Redash Gateway" \
    org.opencontainers.image.licenses="MIT"
RUN groupadd --system --gid 10001 redash-gateway \
    && useradd --system --uid 10001 --gid 10001 --no-log-init --shell /usr/sbin/nologin \
        --create-home --home-dir /var/lib/redash-gateway redash-gateway
COPY --from=build /opt/redash-gateway /opt/redash-gateway
ENV PATH=/opt/redash-gateway/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    HEALTH_URL=http://127.0.0.1:8081/livez
USER 10001:10001
WORKDIR /var/lib/redash-gateway
VOLUME /var/lib/redash-gateway
EXPOSE 8080 8081
# If you change admin.listen, change HEALTH_URL too.
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen(os.environ['HEALTH_URL'], timeout=4)"]
ENTRYPOINT ["redash-gateway"]
CMD ["serve", "-c", "/etc/redash-gateway/config.toml"]
