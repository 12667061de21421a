# The satellite: `skyloadd` and its engine, and no line of ground code. The only image with torch in it.
ARG BASE_IMAGE=python:3.11-slim-bookworm

# What is needed, apart from all else that pyproject.toml says: a change of a linter's setting installs nothing again.
FROM ${BASE_IMAGE} AS needs
COPY pyproject.toml /
RUN python3 -c "import tomllib; project = tomllib.load(open('/pyproject.toml', 'rb'))['project']; print(*project['dependencies'], *project['optional-dependencies']['onboard'], sep='\n')" >/needs.txt

FROM ${BASE_IMAGE} AS build
WORKDIR /build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
# Two environments: one to build with, and one that is copied out whole. The latter has no pip in it.
RUN python3 -m venv /opt/tools && python3 -m venv --without-pip /opt/skyload
COPY constraints.txt ./
# torch alone and first: wheels in docker/wheels win, else TORCH_INDEX names an index with CPU builds. What would be a
# CUDA build is refused before its gigabytes are fetched.
ARG TORCH_INDEX=
RUN --mount=type=cache,target=/root/.cache/pip,sharing=locked --mount=type=bind,source=docker/wheels,target=/wheels \
    set -- --quiet --constraint constraints.txt --find-links /wheels ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} torch \
    && if /opt/tools/bin/pip --python /opt/skyload/bin/python install --dry-run --no-deps --report - "$@" | grep -qE '"(nvidia|cuda)-'; then \
        echo "only a CUDA build of torch is found; put a CPU wheel into docker/wheels, or set TORCH_INDEX (docs/docker.md)" >&2; exit 1; fi \
    && /opt/tools/bin/pip --python /opt/skyload/bin/python install "$@"
COPY --from=needs /needs.txt ./
# What others wrote comes first and by itself: a change of our code does not install it again.
RUN --mount=type=cache,target=/root/.cache/pip,sharing=locked \
    /opt/tools/bin/pip install --quiet --constraint constraints.txt hatchling \
    && /opt/tools/bin/pip --python /opt/skyload/bin/python install --quiet --constraint constraints.txt --requirement needs.txt
COPY pyproject.toml README.md LICENSE ./
COPY protocol protocol
COPY onboard onboard
# `skyload` would be a command without code behind it.
RUN /opt/tools/bin/python -m hatchling build --target wheel --directory /wheel \
    && /opt/tools/bin/pip --python /opt/skyload/bin/python install --quiet --no-deps --no-index --no-cache-dir /wheel/*.whl \
    && rm /opt/skyload/bin/skyload

FROM ${BASE_IMAGE}
RUN groupadd --gid 10001 skyload \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin skyload \
    && install -d -m 700 -o skyload -g skyload /satellite /stick /jobs
COPY --from=build /opt/skyload /opt/skyload
COPY --chmod=755 docker/board.sh docker/twin-server.sh /opt/
ENV PATH=/opt/skyload/bin:$PATH PYTHONUNBUFFERED=1 HOME=/tmp
USER 10001:10001
WORKDIR /satellite
EXPOSE 7003/udp 8080/tcp
CMD ["/opt/board.sh"]
