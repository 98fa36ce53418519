# cardcash-proxy in a small image: `make image`; or `docker build -t cardcash-proxy .`, which leaves its labels empty.
# Everything that is installed comes from the hashed locks in requirements/; the final image has no build tools in it.

# The tag says which it is, the digest that it is that one for ever, on all platforms: what the tag meant on 2026-08-05. What
# Debian and Python have mended since then is not in it; `make pin` writes today's digest behind the tag, and the date here.
ARG PYTHON_IMAGE=python:3.13-slim-bookworm@sha256:67a1e1f215ccda113cfc024e8639049257e88f273898f595b61476d128d387e8

FROM ${PYTHON_IMAGE} AS builder
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PYTHONDONTWRITEBYTECODE=1
WORKDIR /build
RUN command -v strip || { apt-get update -qq && apt-get install -qq -y --no-install-recommends binutils; }
# The base image has its standard library without compiled files, and a read-only disk cannot keep any: each process,
# each `health` too, would compile what it imports, which was nearly half of the start. Here and below the compiled files
# are used without a look at their sources, so they hold whatever time a layer gives those.
RUN library=$(python -c 'import sysconfig; print(sysconfig.get_path("stdlib"))') \
 && python -m compileall -q -f -j 0 --invalidation-mode unchecked-hash \
      -x '/(test|tests|idlelib|tkinter|turtledemo|lib2to3|ensurepip|pydoc_data|site-packages)/' "$library" \
 && mkdir /compiled && cd / && find ".$library" -name '*.pyc' -not -path '*/site-packages/*' -exec cp --parents -t /compiled {} +
COPY requirements/ requirements/
# What the proxy runs with, without what only debuggers and compilers read (20 MB). No pip inside the environment: the
# builder's own writes into it.
RUN python -m venv --without-pip /opt/cardcash-proxy \
 && pip --python /opt/cardcash-proxy/bin/python install --no-compile --only-binary :all: --require-hashes -r requirements/runtime.txt \
 && find /opt/cardcash-proxy/lib -name '*.so' -exec strip --strip-unneeded {} + \
 && find /opt/cardcash-proxy/lib -name '*.p[yx][xdi]' -o -name '*.[ch]' | xargs rm \
 && /opt/cardcash-proxy/bin/python -m compileall -q -f -j 0 --invalidation-mode unchecked-hash /opt/cardcash-proxy/lib
# What builds the wheel: hatchling and all it needs, cut out of the development lock with their hashes.
RUN awk '/^[a-z]/ { keep = /^(hatchling|packaging|pathspec|pluggy|tomlkit|trove-classifiers)==/ } keep' requirements/dev.txt > build.txt \
 && python -m venv --without-pip /opt/hatchling \
 && pip --python /opt/hatchling/bin/python install --only-binary :all: --require-hashes -r build.txt
COPY pyproject.toml README.md ./
COPY proxy/ proxy/
# The same sources give the same wheel. It gets a folder, and so a layer, of its own: a new version is 1 MB to pull. With it comes
# a place for the session of `file://` stores; a volume mounted there takes over that the user of the process may write.
RUN SOURCE_DATE_EPOCH=1767225600 /opt/hatchling/bin/python -m hatchling build -t wheel \
 && pip --python /opt/cardcash-proxy/bin/python install --root /code --no-compile --no-deps --no-index dist/*.whl \
 && /opt/cardcash-proxy/bin/python -m compileall -q -f -s /code --invalidation-mode unchecked-hash /code \
 && mkdir -p -m 1777 /code/var/lib/cardcash-proxy

FROM ${PYTHON_IMAGE}
# What changes least comes first.
COPY --from=builder /compiled/ /
COPY --from=builder /opt/cardcash-proxy /opt/cardcash-proxy
COPY --from=builder /code/ /
ENV PATH=/opt/cardcash-proxy/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
# A number, so that Kubernetes can see that it is not root. The process writes nothing: read-only root works.
USER 10001:10001
# The proxy listens on loopback until it is told otherwise: 8080 for callers, 8081 for operators.
EXPOSE 8080 8081
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=5s --start-period=10s --retries=3 CMD ["cardcash-proxy", "health"]
ENTRYPOINT ["cardcash-proxy"]
CMD ["serve"]
# `make image` fills them in. The owner has chosen no licence yet.
ARG PYTHON_IMAGE
ARG SOURCE=""
ARG REVISION=""
ARG CREATED=""
ARG LICENSES="NOASSERTION"
LABEL org.opencontainers.image.title="cardcash-proxy" \
      org.opencontainers.image.description="Apps send plain HTTP; the proxy keeps the one shared CardCash session." \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.licenses="${LICENSES}" \
      org.opencontainers.image.base.name="${PYTHON_IMAGE}"
