# tidegate serve in a container: no root, no compiler, no tests. `docker build -t tidegate .`, then
# `docker run -p 8080:8080 -v "$PWD/models:/models:ro" tidegate`. tests/docs/test_dockerfile.py replays these steps.

FROM python:3.11-slim AS build
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev
WORKDIR /src
RUN python -m venv /opt/build
RUN python -m venv /opt/tidegate
COPY pyproject.toml setup.py README.md LICENSE /src/
COPY gateway /src/gateway
COPY runtimes /src/runtimes
COPY router /src/router
# The hot path is compiled by what the extra `compile` names, against the types of the dependencies.
RUN /opt/build/bin/python -m pip install --no-cache-dir --disable-pip-version-check '/src[compile]'
RUN TIDEGATE_COMPILE=1 /opt/build/bin/python -m pip wheel --no-cache-dir --disable-pip-version-check --no-deps \
    --no-build-isolation --wheel-dir /wheels /src
RUN /opt/tidegate/bin/python -m pip install --no-cache-dir --disable-pip-version-check /wheels/*.whl

FROM python:3.11-slim
# A platform may run this as any uid of group 0: what is written to belongs to the group.
RUN install -d -o 10001 -g 0 -m 0770 /data /models
COPY --from=build /opt/tidegate /opt/tidegate

# All settings are here and none in CMD, so that a platform may put its own command there.
# The whole network of the container may connect and nobody is asked for a key: publish the port with care.
# No admin port: it would be open to that network too. Metrics are on the data port.
ENV PATH=/opt/tidegate/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    XDG_DATA_HOME=/data \
    TIDEGATE_SERVER__HOST=0.0.0.0 \
    TIDEGATE_SERVER__PORT=8080 \
    TIDEGATE_SERVER__ADMIN_PORT=null \
    TIDEGATE_SERVER__TRUSTED_NETWORK=true \
    TIDEGATE_MODELS__REPOSITORY=/models

USER 10001:0
WORKDIR /models
EXPOSE 8080
STOPSIGNAL SIGTERM
ENTRYPOINT ["tidegate"]
CMD ["serve"]
