"""Keeping the serving process alive: one that hangs is killed, one that cannot be started is tried again."""

import asyncio
import contextlib
import os
import signal
from types import SimpleNamespace

import pytest

from onboard import serving_process
from onboard.inference.control import ServingControl, ServingProcess
from onboard.inference.errors import ServingError
from onboard.serving_process import ServingOptions, ServingSupervision
from onboard.telemetry import Telemetry


def supervision(tmp_path, **options):
    given = ServingOptions(
        listen="127.0.0.1:0", run_directory=tmp_path, engine_command=("/bin/false",), num_threads=1, **options
    )
    return ServingSupervision(given, Telemetry(lambda: 0.0), wanted=lambda: None)


@contextlib.asynccontextmanager
async def running(serving):
    task = asyncio.create_task(serving.run())
    try:
        async with asyncio.timeout(45):
            yield serving._telemetry
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def until(condition):
    while not condition():
        await asyncio.sleep(0.01)


@pytest.mark.slow
def test_a_serving_process_that_hangs_is_killed_and_another_one_started(tmp_path):
    async def run():
        serving = supervision(tmp_path, health_interval_s=0.05, health_timeout_s=1.0)
        async with running(serving) as telemetry:
            await until(lambda: serving.is_up)
            first = serving._process.pid
            os.kill(first, signal.SIGSTOP)
            await until(lambda: telemetry.counters().get("serving_started") == 2)
            assert serving._process.pid != first
            return telemetry.counters()

    assert asyncio.run(run())["serving_hangs"] == 1


@pytest.mark.parametrize("error", [OSError(11, "Resource temporarily unavailable"), ValueError("not JSON")])
def test_a_machine_that_starts_no_process_now_may_do_so_later(tmp_path, monkeypatch, error):
    tries = []

    async def refuse(**_options):
        tries.append(1)
        raise error

    monkeypatch.setattr(ServingProcess, "start", refuse)
    monkeypatch.setattr(serving_process, "_PAUSE_S", 0.001)

    async def run():
        serving = supervision(tmp_path)
        async with running(serving) as telemetry:
            await until(lambda: len(tries) > 2)
            assert not serving.is_up
            assert str(error) in serving.trouble
            return telemetry.counters()

    assert asyncio.run(run())["serving_not_started"] >= 2


def test_hanging_up_does_not_wait_for_a_process_that_takes_nothing(tmp_path):
    async def run():
        never = asyncio.Event()

        async def take_nothing(reader, writer):
            await never.wait()
            writer.transport.abort()

        server = await asyncio.start_unix_server(take_nothing, tmp_path / "control.sock", limit=1)
        control = await ServingControl.connect(tmp_path / "control.sock")
        asking = asyncio.create_task(control.ask([{"role": "user", "content": "x" * (8 << 20)}], max_tokens=1))
        await asyncio.sleep(0.01)
        async with asyncio.timeout(45):
            await control.close()
        with pytest.raises(ServingError):
            await asking
        never.set()
        await asyncio.sleep(0.01)
        server.close()

    asyncio.run(run())


def test_missing_locks_of_an_engine_are_told_once_a_life_and_again_when_others_are_missing(tmp_path):
    class Control:
        missing: tuple[str, ...] = ("runs as root",)

        async def load(self, digest, **_options):
            return SimpleNamespace(not_confined=self.missing)

    async def run():
        serving = supervision(tmp_path)
        serving._control = control = Control()
        for number in range(3):
            await serving.load(bytes([number]) * 32, directory=tmp_path, name="m", timeout_s=1.0)
        assert serving._telemetry.counters()["engine_not_confined"] == 1
        control.missing = ("runs as root", "no Landlock")
        await serving.load(bytes(32), directory=tmp_path, name="m", timeout_s=1.0)
        assert serving._telemetry.counters()["engine_not_confined"] == 2

    asyncio.run(run())
