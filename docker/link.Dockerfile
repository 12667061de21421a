# The link emulator: part of `skyload`, ground test equipment. All layers but the last few are those of the ground image.
ARG BASE_IMAGE=python:3.11-slim-bookworm

# What is needed, apart from all else that pyproject.toml says: a change of a linter's setting installs nothing again.
FROM ${BASE_IMAGE} AS needs
COPY pyproject.toml /
RUN python3 -c "import tomllib; project = tomllib.load(open('/pyproject.toml', 'rb'))['project']; print(*project['dependencies'], *project['optional-dependencies']['ground'], sep='\n')" >/needs.txt

FROM ${BASE_IMAGE} AS build
WORKDIR /build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
# Two environments: one to build with, and one that is copied out whole. The latter has no pip in it.
RUN python3 -m venv /opt/tools && python3 -m venv --without-pip /opt/skyload
COPY constraints.txt ./
COPY --from=needs /needs.txt ./
# What others wrote comes first and by itself: a change of our code does not install it again.
RUN --mount=type=cache,target=/root/.cache/pip,sharing=locked \
    /opt/tools/bin/pip install --quiet --constraint constraints.txt hatchling \
    && /opt/tools/bin/pip --python /opt/skyload/bin/python install --quiet --constraint constraints.txt --requirement needs.txt
COPY pyproject.toml README.md LICENSE ./
COPY protocol protocol
COPY groundsegment groundsegment
# `skyloadd` would be a command without code behind it.
RUN /opt/tools/bin/python -m hatchling build --target wheel --directory /wheel \
    && /opt/tools/bin/pip --python /opt/skyload/bin/python install --quiet --no-deps --no-index --no-cache-dir /wheel/*.whl \
    && rm /opt/skyload/bin/skyloadd

FROM ${BASE_IMAGE}
RUN groupadd --gid 10001 skyload \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin skyload
COPY --from=build /opt/skyload /opt/skyload
COPY --chmod=755 docker/sky.sh /opt/
ENV PATH=/opt/skyload/bin:$PATH PYTHONUNBUFFERED=1 HOME=/tmp SKYLOAD_LINK_CONTROL=/run/skyload/link.sock
USER 10001:10001
WORKDIR /tmp
EXPOSE 7001/udp 7002/udp
CMD ["/opt/sky.sh"]
