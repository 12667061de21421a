"""The daemon's control socket ends with the daemon, whoever is connected."""

import asyncio
import contextlib
import json

import pytest

from onboard.control_socket import SOCKET_NAME, ControlSocket
from onboard.store import local_key


def test_stopping_hangs_up_on_those_who_ask_nothing_and_those_who_wait_and_logs_no_error(tmp_path, caplog):
    async def run():
        async def wait(asked):
            await asyncio.Event().wait()

        running = asyncio.create_task(ControlSocket(tmp_path, {"wait": wait}).run())
        async with asyncio.timeout(45):
            while not (tmp_path / SOCKET_NAME).exists():
                await asyncio.sleep(0.001)
            clients = [await asyncio.open_unix_connection(tmp_path / SOCKET_NAME) for _ in range(2)]
            assert (tmp_path / SOCKET_NAME).stat().st_mode & 0o777 == 0o600
            asked = {"op": "wait", "key": local_key.read(tmp_path)}
            clients[0][1].write(json.dumps(asked).encode() + b"\n")
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


@pytest.mark.parametrize("key", [None, "", "0" * 64, 7, ["0"]])
def test_nobody_without_the_key_is_obeyed(tmp_path, key):
    """An engine may connect to any socket of its user; it cannot read the key."""
    asked = []

    async def run():
        async def revert(request):
            asked.append(request)
            return {}

        running = asyncio.create_task(ControlSocket(tmp_path, {"revert": revert}).run())
        async with asyncio.timeout(45):
            while not (tmp_path / SOCKET_NAME).exists():
                await asyncio.sleep(0.001)
            reader, writer = await asyncio.open_unix_connection(tmp_path / SOCKET_NAME)
            writer.write(json.dumps({"op": "revert", "key": key}).encode() + b"\n")
            answer = json.loads(await reader.readline())
            writer.close()
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running
        return answer

    answer = asyncio.run(run())
    assert (answer["ok"], answer["error"], asked) == (False, "a request without the daemon's key", [])


def test_the_key_is_made_once_and_read_by_nobody_else(tmp_path):
    key = local_key.ensure(tmp_path)
    assert local_key.ensure(tmp_path) == local_key.read(tmp_path) == key
    assert len(bytes.fromhex(key)) == 32
    assert [(path.name, path.stat().st_mode & 0o777) for path in tmp_path.iterdir()] == [("key", 0o600)]


@pytest.mark.parametrize("left", [b"", b"\xff" * 64, b"ab"], ids=["empty", "flipped", "short"])
def test_a_key_that_a_power_cut_or_a_flip_damaged_lets_nobody_in_and_is_made_anew(tmp_path, left):
    (tmp_path / "key").write_bytes(left)
    assert not local_key.is_key("", "")
    key = local_key.ensure(tmp_path)
    assert len(key) == 64
    assert local_key.ensure(tmp_path) == local_key.read(tmp_path) == key
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["key"]
