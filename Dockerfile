# One image that runs any subcommand: docker run abmesh ext-proc --listen 0.0.0.0:50051
# tests/test_container.py runs the RUN and CMD lines below as they stand, without Docker, so that they stay true.
#
# A tag can be moved to another image. A release pins the base by its digest (docs/releasing.md); without the argument
# you get whatever the tag names on the day of the build, and the label org.opencontainers.image.base.name says so.
ARG BASE=python:3.12-slim

FROM ${BASE} AS build
WORKDIR /src
COPY pyproject.toml requirements-build.lock requirements-image.lock requirements-envoy.lock README.md LICENSE ./
# What builds the wheel stays out of the image; so does pip, which runs from here.
RUN python -m venv /opt/build
RUN /opt/build/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes --only-binary :all: --requirement requirements-build.lock
RUN python -m venv --without-pip /opt/abmesh
RUN /opt/build/bin/pip --python /opt/abmesh/bin/python install --no-cache-dir --disable-pip-version-check --require-hashes --only-binary :all: --requirement requirements-image.lock
COPY abmesh abmesh
COPY ext_proc ext_proc
COPY controller controller
RUN /opt/build/bin/python -m hatchling build --target wheel --directory dist
RUN /opt/build/bin/pip --python /opt/abmesh/bin/python install --no-cache-dir --disable-pip-version-check --no-deps --no-index dist/*.whl

FROM build AS build-demo
RUN /opt/build/bin/pip --python /opt/abmesh/bin/python install --no-cache-dir --disable-pip-version-check --require-hashes --only-binary :all: --requirement requirements-envoy.lock

FROM ${BASE} AS runtime
ARG BASE
LABEL org.opencontainers.image.base.name=${BASE}
RUN useradd --system --uid 65532 --home-dir /var/lib/abmesh --create-home --shell /usr/sbin/nologin abmesh
# A new volume that is mounted here gets this owner and mode.
RUN install --directory --owner=65532 --group=65532 --mode=0700 /var/lib/abmesh-state
COPY --from=build /opt/abmesh /opt/abmesh
COPY --chown=65532:65532 experiments.yaml /var/lib/abmesh/experiments.yaml
# A cluster may run it as a user that no passwd knows, who would have no home, and on a root that is read-only.
ENV PATH=/opt/abmesh/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp
USER 65532:65532
WORKDIR /var/lib/abmesh
ENTRYPOINT ["abmesh"]
CMD ["--help"]

# With an Envoy, to try things out: docker build --target demo. compose.yaml uses it; a release does not.
FROM runtime AS demo
COPY --from=build-demo /opt/abmesh /opt/abmesh

# What `docker build` makes unless told otherwise: without Envoy.
FROM runtime
