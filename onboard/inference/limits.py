"""Every maximum of serving that is not one request's own (those are in openai_api.py)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Every maximum of serving.

    Attributes:
        num_parallel: answers one worker computes in turn.
        max_waiting: requests that wait for a place; one more is refused.
        max_workers: releases loaded at the same time.
        request_timeout_s: longest time from admission to the last token.
        wait_timeout_s: longest wait for a model that serves.
        health_interval_s: between two questions after a worker's health.
        health_timeout_s: a worker that does not answer for this long is killed.
        stall_timeout_s: so is one whose engine makes no progress for this long.
        restart_pause_s: first pause before a restart; doubles each time.
        restart_pause_max_s: longest pause.
        weights_period_s: in which a worker compares all its weights in memory once; 0 never.
    """

    num_parallel: int = 4
    max_waiting: int = 64
    max_workers: int = 3
    request_timeout_s: float = 300.0
    wait_timeout_s: float = 60.0
    health_interval_s: float = 5.0
    health_timeout_s: float = 30.0
    stall_timeout_s: float = 120.0
    restart_pause_s: float = 0.1
    restart_pause_max_s: float = 30.0
    weights_period_s: float = 0.0
