"""Counters of serving: one Prometheus registry for /metrics, and the few totals that `status` reports."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from onboard.inference.answers import Started
from onboard.inference.children import rss_bytes
from onboard.inference.engine import Delta, Done, Prompt, Sampling
from onboard.inference.errors import ServingError
from onboard.inference.supervisor import Supervisor

_REFUSED = {"busy", "invalid", "too_long", "unavailable"}
"""Kinds of a request that was answered with no work done: not a failure of an admitted request."""


class Tally:
    """Counts every request that goes through `answer`, whatever its end."""

    def __init__(self, supervisor: Supervisor) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.num_requests = 0
        self.num_failed = 0
        self.num_in_flight = 0
        self._supervisor = supervisor
        self._registry = CollectorRegistry()
        self._outcomes = Counter(
            "skyload_requests",
            "Requests that ended, by API and outcome: ok, refused (4xx, 503), failed, cancelled by the client.",
            ["api", "outcome"],
            registry=self._registry,
        )
        self._tokens = Counter("skyload_tokens", "Tokens of answered requests.", ["kind"], registry=self._registry)
        self._seconds = Histogram(
            "skyload_request_seconds",
            "From arrival to the last token, answered requests.",
            buckets=(0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300),
            registry=self._registry,
        )
        self._first = Histogram(
            "skyload_first_token_seconds",
            "From arrival to the first token.",
            buckets=(0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60),
            registry=self._registry,
        )
        self._registry.register(_SupervisorCollector(supervisor, self))

    async def answer(
        self, api: str, prompt: Prompt, sampling: Sampling
    ) -> AsyncGenerator[Started | Delta | Done, None]:
        """Answer through the supervisor, and count.

        Raises:
            ServingError: as Supervisor.answer.
        """
        started_at = time.monotonic()
        outcome = "cancelled"
        self.num_in_flight += 1
        try:
            async with aclosing(self._supervisor.answer(prompt, sampling)) as items:
                async for item in items:
                    if isinstance(item, Started):
                        self._first.observe(time.monotonic() - started_at)
                    elif isinstance(item, Done):
                        outcome = "ok"
                        self._seconds.observe(time.monotonic() - started_at)
                        self._tokens.labels("prompt").inc(item.prompt_tokens)
                        self._tokens.labels("completion").inc(item.completion_tokens)
                    yield item
        except ServingError as error:
            outcome = "refused" if error.kind in _REFUSED else "failed"
            raise
        finally:
            self.num_in_flight -= 1
            self.num_requests += 1
            self.num_failed += outcome == "failed"
            self._outcomes.labels(api, outcome).inc()

    def render(self) -> bytes:
        """Return all metrics in Prometheus text format."""
        return generate_latest(self._registry)


class _SupervisorCollector:
    """Reads what the supervisor knows at the moment of a scrape."""

    def __init__(self, supervisor: Supervisor, tally: Tally) -> None:
        self._supervisor = supervisor
        self._tally = tally

    def collect(self) -> Iterator[Metric]:
        supervisor = self._supervisor
        yield _gauge("skyload_requests_in_flight", "Requests being answered.", self._tally.num_in_flight)
        yield _gauge("skyload_requests_waiting", "Requests waiting for a place.", supervisor.num_waiting)
        yield _gauge("skyload_serving", "1 while a release answers.", int(supervisor.is_serving))
        yield _gauge("skyload_swap_seconds", "How long the last flip took.", (supervisor.swap_ms or 0.0) / 1000)
        yield _counter("skyload_swaps", "Flips to another release.", supervisor.num_swaps)
        yield _counter("skyload_worker_failures", "Deaths of engine workers.", supervisor.num_worker_failures)
        yield _gauge("skyload_serving_resident_bytes", "Memory of this process.", rss_bytes(os.getpid()))
        restarts = CounterMetricFamily(
            "skyload_worker_restarts", "Restarts of a loaded release's worker.", labels=["release"]
        )
        memory = GaugeMetricFamily("skyload_worker_resident_bytes", "Memory of a worker.", labels=["release"])
        for model in supervisor.models:
            restarts.add_metric([model.release[:16]], model.num_restarts)
            memory.add_metric([model.release[:16]], model.worker.rss_bytes if model.worker else 0)
        info = GaugeMetricFamily("skyload_release_info", "The release that serves.", labels=["release", "name"])
        if supervisor.serving is not None:
            info.add_metric([supervisor.serving.release, supervisor.serving.name], 1)
        yield from (restarts, memory, info)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(name, text, value=value)
