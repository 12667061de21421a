"""The solver's process when the machine misbehaves: a hang costs one try, a start that fails costs only time."""

import asyncio
import os
import signal

import pytest

from onboard.receiver import solver
from onboard.receiver.rebuild import Outcome
from onboard.receiver.solver import ProcessSolver

NAME = "0123456789ab.1.10.64"


@pytest.mark.slow
def test_a_worker_that_hangs_is_killed_and_the_next_job_gets_another(tmp_path):
    async def run():
        made = ProcessSolver(timeout_s=10.0)
        try:
            assert (await made.solve(tmp_path / NAME, 0)).outcome is Outcome.SHORT
            os.kill(made._process.pid, signal.SIGSTOP)
            made._timeout_s = 0.05
            assert (await made.solve(tmp_path / NAME, 0)).outcome is Outcome.DIED
            made._timeout_s = 10.0
            assert (await made.solve(tmp_path / NAME, 0)).outcome is Outcome.SHORT
        finally:
            await made.close()

    asyncio.run(run())


def test_a_machine_that_starts_no_process_now_is_asked_again(tmp_path, monkeypatch):
    start, tries = asyncio.create_subprocess_exec, []

    async def refuse(*argv, **how):
        tries.append(1)
        if len(tries) < 5:
            raise OSError(11, "Resource temporarily unavailable")
        return await start(*argv, **how)

    monkeypatch.setattr(asyncio, "create_subprocess_exec", refuse)
    monkeypatch.setattr(solver, "_START_PAUSE_S", 0.001)

    async def run():
        made = ProcessSolver()
        try:
            return await made.solve(tmp_path / NAME, 0), made.num_deaths
        finally:
            await made.close()

    result, num_deaths = asyncio.run(run())
    assert (result.outcome, num_deaths) == (Outcome.SHORT, 0)
