# docker build -t redash-gateway .          (--build-arg EXTRAS=redis,otel adds Redis and tracing)
# docker run -v ./config:/etc/redash-gateway:ro -v redash-gateway:/var/lib/redash-gateway -p 8080:8080 redash-gateway
#
# Settings in config.toml:
#   server.listen = "0.0.0.0:8080"
#   server.hosts with the host names that clients use
#   cache.store = "sqlite:/var/lib/redash-gateway/cache.db" (a relative path would start at the read-only /etc)
# If Prometheus runs outside the container: admin.listen = "0.0.0.0:8081", reachable only for Prometheus. All but
# metrics and health then needs the token of admin.token_sha256.

FROM python:3.13-slim AS build
ARG EXTRAS=""
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY gateway gateway
RUN python -m venv /opt/redash-gateway \
    && /opt/redash-gateway/bin/pip install --no-cache-dir ".${EXTRAS:+[$EXTRAS]}"

FROM python:3.13-slim
RUN useradd --system --uid 10001 --create-home --home-dir /var/lib/redash-gateway redash-gateway
COPY --from=build /opt/redash-gateway /opt/redash-gateway
ENV PATH=/opt/redash-gateway/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    HEALTH_URL=http://127.0.0.1:8081/livez
USER 10001
WORKDIR /var/lib/redash-gateway
VOLUME /var/lib/redash-gateway
EXPOSE 8080 8081
# If you change admin.listen, change HEALTH_URL too.
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen(os.environ['HEALTH_URL'], timeout=4)"]
ENTRYPOINT ["redash-gateway"]
CMD ["serve", "-c", "/etc/redash-gateway/config.toml"]
