"""The daemon's control socket ends with the daemon, whoever is connected."""

import asyncio
import contextlib

from onboard.control_socket import SOCKET_NAME, ControlSocket


def test_stopping_hangs_up_on_those_who_ask_nothing_and_those_who_wait_and_logs_no_error(tmp_path, caplog):
    async def run():
        async def wait(asked):
            await asyncio.Event().wait()

        running = asyncio.create_task(ControlSocket(tmp_path, {"wait": wait}).run())
        async with asyncio.timeout(5):
            while not (tmp_path / SOCKET_NAME).exists():
                await asyncio.sleep(0.001)
            clients = [await asyncio.open_unix_connection(tmp_path / SOCKET_NAME) for _ in range(2)]
            clients[0][1].write(b'{"op": "wait"}\n')
            await asyncio.sleep(0.01)
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running
            for reader, writer in clients:
                assert await reader.read() == b""
                writer.close()

    asyncio.run(run())
    assert not caplog.records
    assert not (tmp_path / SOCKET_NAME).exists()
