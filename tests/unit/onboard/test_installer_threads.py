"""Work in a thread ends soon after nobody waits for it."""

import asyncio
import contextlib
import threading

import pytest

from onboard.installer.threads import WorkStoppedError, check_stop, in_thread


def test_work_that_nobody_waits_for_any_more_stops_and_the_cancellation_comes_after_its_end():
    began, how = threading.Event(), []

    def work():
        began.set()
        try:
            while True:
                check_stop()
        except WorkStoppedError:
            how.append("stopped")
            raise

    async def run():
        task = asyncio.create_task(in_thread(work))
        while not began.is_set():
            await asyncio.sleep(0.001)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        assert task.cancelled()
        return list(how)

    assert asyncio.run(run()) == ["stopped"]


def test_elsewhere_nothing_is_stopped():
    check_stop()

    async def run():
        check_stop()
        return await in_thread(lambda: "done")

    assert asyncio.run(run()) == "done"


def test_an_error_of_the_work_comes_out():
    with pytest.raises(ZeroDivisionError):
        asyncio.run(in_thread(lambda: 1 // 0))
