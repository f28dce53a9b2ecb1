# One image that runs any subcommand: docker run abmesh ext-proc --listen 0.0.0.0:50051
# tests/test_container.py runs the RUN and CMD lines below as they stand, without Docker, so that they stay true.
FROM python:3.12-slim AS build
WORKDIR /src
COPY pyproject.toml requirements.lock README.md LICENSE ./
COPY abmesh abmesh
COPY ext_proc ext_proc
COPY controller controller
# The lock as constraints: exactly the tested versions, without the development tools.
RUN python -m venv /opt/abmesh
RUN /opt/abmesh/bin/pip install --no-cache-dir --disable-pip-version-check --constraint requirements.lock ".[demo,fast]"

FROM python:3.12-slim
RUN useradd --system --uid 65532 --home-dir /var/lib/abmesh --create-home --shell /usr/sbin/nologin abmesh
# A new volume that is mounted here gets this owner and mode.
RUN install --directory --owner=65532 --group=65532 --mode=0700 /var/lib/abmesh-state
COPY --from=build /opt/abmesh /opt/abmesh
COPY --chown=65532:65532 experiments.yaml /var/lib/abmesh/experiments.yaml
ENV PATH=/opt/abmesh/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 65532:65532
WORKDIR /var/lib/abmesh
ENTRYPOINT ["abmesh"]
CMD ["--help"]
