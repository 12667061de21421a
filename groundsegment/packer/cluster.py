"""A Dask cluster that encodes: for models that one machine would pack for hours. `pip install 'skyload[dask]'`.

    dask scheduler                                     on one machine
    dask worker tcp://HOST:8786 --nthreads 1 --nworkers auto      on each, with the same skyload installed
    skyload stage ... --executor tcp://HOST:8786

What crosses the network are paths, offsets and encoded segments; each worker reads the files by itself, so a release
and its base must lie under the same path on every machine (NFS, Lustre ...). That, and that all workers run the very
versions that decide a segment's bytes, is checked before the first segment. The release key and the signing keys never
leave this machine; plain weights do, so the network is to be trusted as the file system is (or take tls://).
"""

import logging
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from groundsegment.errors import GroundError, InputError, LinkError
from groundsegment.packer.plan import coder_versions
from groundsegment.packer.workers import Workers

_CONNECT_TIMEOUT_S = 10.0
_SCHEMES = ("dask", "tcp", "tls", "ws", "wss", "ucx")
_START_HINT = "start one with `dask scheduler`, and `dask worker tcp://HOST:8786 --nthreads 1` on each machine"


@contextmanager
def cluster_workers(url: str) -> Iterator[Workers]:
    """Give the workers of a cluster.

    Args:
        url: of its scheduler: dask://host:port, which means tcp, or any address that Dask knows.

    Raises:
        InputError: no such scheme, or Dask is not installed.
        LinkError: no scheduler answers there, or it has no workers.
        GroundError: the cluster was lost on the way.
    """
    client = _connect(_address(url))
    loop_log = logging.getLogger("tornado.application")
    loop_log.addFilter(_is_not_our_cancelling)
    try:
        num_threads = sum(client.nthreads().values())
        if not num_threads:
            raise LinkError(f"{url}: the scheduler has no workers", hint=_START_HINT)
        yield Workers(
            count=num_threads,
            executor=client.get_executor(pure=False),
            check=lambda files: _check(client, files),
        )
    except _lost_errors() as error:
        hint = "see the workers' logs; run the same command again, it goes on where it was"
        raise GroundError(f"{url}: the cluster lost our work: {error}", hint=hint) from error
    finally:
        client.close()
        loop_log.removeFilter(_is_not_our_cancelling)


def _is_not_our_cancelling(record: logging.LogRecord) -> bool:
    """Whether a record of the event loop is worth a look.

    What is cancelled on ctrl-C while its result is on the way makes the loop log a traceback, though nothing is wrong.
    """
    from distributed.client import FutureCancelledError

    return not (record.exc_info and isinstance(record.exc_info[1], FutureCancelledError))


def _address(url: str) -> str:
    scheme, found, rest = url.partition("://")
    if not found or scheme not in _SCHEMES or not rest:
        raise InputError(f"--executor: {url!r} is not an address", hint="write tcp://host:8786")
    return f"tcp://{rest}" if scheme == "dask" else url


def _connect(address: str) -> Any:  # noqa: ANN401 - distributed.Client, an optional dependency
    try:
        from distributed import Client
    except ImportError as error:
        hint = "pip install 'skyload[dask]', or leave --executor out"
        raise InputError("--executor needs dask.distributed, which is not installed", hint=hint) from error
    try:
        return Client(address, timeout=_CONNECT_TIMEOUT_S, set_as_default=False)
    except (OSError, TimeoutError) as error:
        raise LinkError(f"{address}: no Dask scheduler answers: {error}", hint=_START_HINT) from error


def _lost_errors() -> tuple[type[Exception], ...]:
    from distributed import scheduler
    from distributed.client import FutureCancelledError
    from distributed.comm import CommClosedError

    return scheduler.KilledWorker, FutureCancelledError, CommClosedError


def _check(client: Any, files: Iterable[Path]) -> None:  # noqa: ANN401 - distributed.Client
    """Make sure that every worker would read and write the same bytes as we.

    Raises:
        InputError: one would not.
    """
    try:
        found: Mapping[str, list[str]] = client.run(_troubles, _sizes(files), coder_versions())
    except Exception as error:  # the function may not even unpickle there
        hint = "install the same skyload, with the same Python, on every worker"
        raise InputError(f"the workers cannot run skyload: {error}", hint=hint) from error
    for worker, troubles in sorted(found.items()):
        if troubles:
            hint = "a release and its base must lie under the same path on every machine; all need the same versions"
            raise InputError(f"worker {worker}: {troubles[0]} ({len(troubles)} such)", hint=hint)


def _sizes(files: Iterable[Path]) -> dict[str, int]:
    return {str(path): path.stat().st_size for path in files}


def _troubles(sizes: Mapping[str, int], versions: Mapping[str, str]) -> list[str]:
    """What a worker would do differently. Runs there."""
    host = socket.gethostname()
    troubles = [
        f"{name} is {coder_versions().get(name)} on {host}, {wanted} here"
        for name, wanted in versions.items()
        if coder_versions().get(name) != wanted
    ]
    for path, size in sizes.items():
        try:
            with Path(path).open("rb") as file:
                there = file.seek(0, 2)
        except OSError as error:
            troubles.append(f"{path} cannot be read on {host}: {error.strerror}")
            continue
        if there != size:
            troubles.append(f"{path} has {there} bytes on {host}, {size} here")
    return troubles
