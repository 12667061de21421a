"""The serving process: the HTTP endpoint, the control socket and the supervisor of engine workers, one loop.

    python -m onboard.inference.serving --listen 127.0.0.1:8080 --control RUN/control.sock --run-dir RUN

Started by the daemon (see ServingProcess in control.py). Prints one JSON line, {"ready": true, "endpoint":
URL}, when both sockets listen; logs go to standard error. It serves nothing until told to load and flip.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import shlex
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import uvicorn

from onboard.inference.confinement.policy import BEST_EFFORT, Confinement
from onboard.inference.confinement.quarters import remove_left_behind
from onboard.inference.control_server import ControlServer
from onboard.inference.endpoint import make_app
from onboard.inference.limits import Limits
from onboard.inference.metrics import Tally
from onboard.inference.openai_api import ApiLimits
from onboard.inference.patience import HEAD_BYTES_MAX, PatientProtocol, patient_protocol
from onboard.inference.supervisor import Supervisor
from onboard.inference.workers import DEFAULT_ENGINE_COMMAND

_MAX_CONNECTIONS = 512
"""Stuck clients cost memory; beyond this the answer is a plain 503."""


class _Server(uvicorn.Server):
    """Uvicorn without its signal handlers: `serve` below has its own order of closing."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    limits, api = Limits(), ApiLimits()
    parser = argparse.ArgumentParser(prog="onboard.inference.serving", description="Serve releases over HTTP.")
    parser.add_argument("--listen", default="127.0.0.1:8080", metavar="HOST:PORT", help="port 0 picks a free one")
    parser.add_argument("--control", type=Path, required=True, metavar="PATH", help="Unix socket to listen on")
    parser.add_argument("--run-dir", type=Path, required=True, metavar="DIR", help="for sockets and logs")
    parser.add_argument("--engine-command", default="", metavar="ARGV", help="shell words; default: transformers")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of an engine")
    parser.add_argument("--weights-period-s", type=float, default=limits.weights_period_s)
    parser.add_argument("--confinement", default="", metavar="JSON", help="what engines may do; default: best effort")
    parser.add_argument("--parallel", type=int, default=limits.num_parallel, help="answers a worker steps in turn")
    parser.add_argument("--max-waiting", type=int, default=limits.max_waiting)
    parser.add_argument("--max-workers", type=int, default=limits.max_workers)
    parser.add_argument("--request-timeout-s", type=float, default=limits.request_timeout_s)
    parser.add_argument("--wait-timeout-s", type=float, default=limits.wait_timeout_s)
    parser.add_argument("--stall-timeout-s", type=float, default=limits.stall_timeout_s)
    parser.add_argument("--health-interval-s", type=float, default=limits.health_interval_s)
    parser.add_argument("--max-body-bytes", type=int, default=api.body_bytes)
    parser.add_argument("--head-timeout-s", type=float, default=PatientProtocol.head_timeout_s)
    parser.add_argument("--max-tokens", type=int, default=api.max_tokens)
    return parser.parse_args(arguments)


async def serve(arguments: argparse.Namespace, *, on_ready: Callable[[str], None]) -> None:
    """Run until told to shut down, by the control socket or a signal; `on_ready` gets the endpoint's URL."""
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    arguments.run_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    remove_left_behind(arguments.run_dir)
    listener = _listen(arguments.listen)
    host, port = listener.getsockname()[:2]
    endpoint = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    supervisor = _make_supervisor(arguments)
    tally = Tally(supervisor)
    control = ControlServer(supervisor, tally, endpoint=endpoint, shut_down=stopping.set)

    def on_event(event: dict[str, Any]) -> None:
        print(json.dumps(event), file=sys.stderr, flush=True)  # noqa: T201 - the log
        control.publish(event)

    supervisor.on_event = on_event
    api_limits = ApiLimits(body_bytes=arguments.max_body_bytes, max_tokens=arguments.max_tokens)
    app = make_app(supervisor, tally, limits=api_limits)
    config = uvicorn.Config(
        app,
        lifespan="off",
        access_log=False,
        log_level="warning",
        http=patient_protocol(arguments.head_timeout_s),
        h11_max_incomplete_event_size=HEAD_BYTES_MAX,
        limit_concurrency=_MAX_CONNECTIONS,
        # Well above what HTTP clients keep: one that closes first would lose a request that is on its way.
        timeout_keep_alive=75,
        timeout_graceful_shutdown=2,
    )
    server = _Server(config)
    http = asyncio.create_task(server.serve(sockets=[listener]))
    await control.start(arguments.control)
    on_ready(endpoint)
    await asyncio.wait({asyncio.create_task(stopping.wait()), http}, return_when=asyncio.FIRST_COMPLETED)
    server.should_exit = True
    await supervisor.close()
    await http
    await control.close()
    arguments.control.unlink(missing_ok=True)


def _listen(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, int(port)))
    return listener


def _make_supervisor(arguments: argparse.Namespace) -> Supervisor:
    command = tuple(shlex.split(arguments.engine_command)) or DEFAULT_ENGINE_COMMAND
    return Supervisor(
        command=command,
        run_directory=arguments.run_dir,
        num_threads=arguments.threads,
        limits=Limits(
            num_parallel=arguments.parallel,
            max_waiting=arguments.max_waiting,
            max_workers=arguments.max_workers,
            request_timeout_s=arguments.request_timeout_s,
            wait_timeout_s=arguments.wait_timeout_s,
            stall_timeout_s=arguments.stall_timeout_s,
            health_interval_s=arguments.health_interval_s,
            weights_period_s=arguments.weights_period_s,
        ),
        confinement=Confinement.from_json(arguments.confinement) if arguments.confinement else BEST_EFFORT,
    )


def _say_ready(endpoint: str) -> None:
    print(json.dumps({"ready": True, "endpoint": endpoint}), flush=True)  # noqa: T201 - the parent waits for it


def main() -> None:
    """Entry point of the process."""
    arguments = parse_arguments()
    try:
        asyncio.run(serve(arguments, on_ready=_say_ready))
    except (OSError, ValueError) as error:
        sys.exit(f"serving cannot start: {error} (endpoint.listen = {arguments.listen})")


if __name__ == "__main__":
    main()
