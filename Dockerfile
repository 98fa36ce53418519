# cardcash-proxy in a small image: `docker build -t cardcash-proxy .`
# Everything that is installed comes from the hashed locks in requirements/; the final image has no build tools in it.

FROM python:3.13-slim-bookworm AS builder
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
COPY requirements/ requirements/
# What the proxy runs with. No pip inside the environment: the builder's own writes into it.
RUN python -m venv --without-pip /opt/cardcash-proxy \
 && pip --python /opt/cardcash-proxy/bin/python install --no-compile --only-binary :all: --require-hashes -r requirements/runtime.txt
# What builds the wheel: hatchling and all it needs, cut out of the development lock with their hashes.
RUN awk '/^[a-z]/ { keep = /^(hatchling|packaging|pathspec|pluggy|tomlkit|trove-classifiers)==/ } keep' requirements/dev.txt > build.txt \
 && python -m venv --without-pip /opt/hatchling \
 && pip --python /opt/hatchling/bin/python install --only-binary :all: --require-hashes -r build.txt
COPY pyproject.toml README.md ./
COPY proxy/ proxy/
# The same sources give the same wheel; the compiled files name their sources by hash, so a read-only disk is enough.
RUN SOURCE_DATE_EPOCH=1767225600 /opt/hatchling/bin/python -m hatchling build -t wheel \
 && pip --python /opt/cardcash-proxy/bin/python install --no-compile --no-deps --no-index dist/*.whl \
 && /opt/cardcash-proxy/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/cardcash-proxy/lib

FROM python:3.13-slim-bookworm
LABEL org.opencontainers.image.title="cardcash-proxy" \
      org.opencontainers.image.description="Apps send plain HTTP; the proxy keeps the one shared CardCash session." \
      org.opencontainers.image.version="0.1.0"
COPY --from=builder /opt/cardcash-proxy /opt/cardcash-proxy
ENV PATH=/opt/cardcash-proxy/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
# A number, so that Kubernetes can see that it is not root. The process writes nothing: read-only root works.
USER 10001:10001
# The proxy listens on loopback until it is told otherwise: 8080 for callers, 8081 for operators.
EXPOSE 8080 8081
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=5s --start-period=10s --retries=3 CMD ["cardcash-proxy", "health"]
ENTRYPOINT ["cardcash-proxy"]
CMD ["serve"]
