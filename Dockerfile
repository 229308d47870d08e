# The image of the chart: docker build -t REGISTRY/prestage:0.1.0 . && docker push REGISTRY/prestage:0.1.0
# One image for all parts; `prestage node …` and `prestage control …` are what the chart runs. Packages are what
# requirements-image.lock says, by hash. No compiler, no source, no package manager's cache is left in it.
ARG PYTHON=3.12-slim-bookworm

FROM python:${PYTHON} AS built
RUN python -m venv /opt/prestage
COPY requirements-image.lock /src/
RUN /opt/prestage/bin/pip install --no-cache-dir --require-hashes --no-deps --requirement /src/requirements-image.lock
COPY pyproject.toml README.md LICENSE /src/
COPY cacher /src/cacher
COPY daemonset/prestage /src/daemonset/prestage
COPY bench /src/bench
RUN /opt/prestage/bin/pip install --no-cache-dir --no-deps /src && /opt/prestage/bin/pip uninstall --yes pip

FROM python:${PYTHON}
LABEL org.opencontainers.image.title=prestage org.opencontainers.image.licenses=Apache-2.0
COPY --from=built /opt/prestage /opt/prestage
ENV PATH=/opt/prestage/bin:/usr/local/bin:/usr/bin:/bin PYTHONUNBUFFERED=1
# the node's containers run as root, by their securityContext
USER 65532:65532
ENTRYPOINT ["prestage"]
