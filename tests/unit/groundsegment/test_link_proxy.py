"""The proxy with real sockets on loopback: what passes, what a cut does, who hears the downlink."""

import asyncio
import contextlib
import dataclasses
import json
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from groundsegment.emulator.conditions import Contact, DirectionProfile, LinkProfile
from groundsegment.emulator.control import call_control
from groundsegment.emulator.ground_link import LISTENERS_MAX
from groundsegment.emulator.shell import Endpoint, LinkProxy, write_statistics
from groundsegment.errors import BusyError, InputError, LinkError

LOCAL = Endpoint(host="127.0.0.1", port=0)
PATIENCE_S = 45.0


def udp() -> socket.socket:
    opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    opened.setblocking(False)
    opened.bind(("127.0.0.1", 0))
    return opened


class Site:
    """A satellite, one station and a proxy between them."""

    def __init__(self, proxy: LinkProxy, satellite: socket.socket, station: socket.socket) -> None:
        self.proxy = proxy
        self.satellite = satellite
        self.station = station
        self.ground = self._address("ground")
        self.space = self._address("space")

    def _address(self, name: str) -> tuple[str, int]:
        host, _, port = self.proxy.statistics()[name].rpartition(":")
        return host, int(port)

    def uplink(self, data: bytes) -> None:
        self.station.sendto(data, self.ground)

    def downlink(self, data: bytes) -> None:
        self.satellite.sendto(data, self.space)

    async def counted(self, direction: str, name: str, number: int) -> None:
        """Wait until a counter stands at a number."""
        while self.proxy.statistics()[direction][name] != number:
            await asyncio.sleep(0.002)


async def receive(source: socket.socket) -> bytes:
    return await asyncio.wait_for(asyncio.get_running_loop().sock_recv(source, 65_535), PATIENCE_S)


def has_frame(source: socket.socket) -> bool:
    try:
        source.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    return True


@contextlib.asynccontextmanager
async def running(profile: LinkProfile, control: Path | None = None, **options: Any) -> AsyncIterator[Site]:
    with udp() as satellite, udp() as station:
        where = Endpoint(host="127.0.0.1", port=satellite.getsockname()[1])
        options = {"seed": 1, "ground": LOCAL, "space": LOCAL, "satellite": where, **options}
        proxy = LinkProxy(profile, **options)
        stop, is_up = asyncio.Event(), asyncio.Event()
        task = asyncio.create_task(proxy.run(stop=stop, control=control, on_tick=lambda _: is_up.set()))
        up = asyncio.create_task(is_up.wait())
        await asyncio.wait({task, up}, return_when=asyncio.FIRST_COMPLETED, timeout=PATIENCE_S)
        up.cancel()
        if task.done():
            task.result()
        try:
            yield Site(proxy, satellite, station)
        finally:
            stop.set()
            await task


def fly(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(scenario(), PATIENCE_S))


def test_frames_pass_in_both_directions() -> None:
    async def scenario() -> None:
        async with running(LinkProfile()) as site:
            site.uplink(b"question")
            assert await receive(site.satellite) == b"question"
            site.downlink(b"answer")
            assert await receive(site.station) == b"answer"

    fly(scenario)


def test_a_thousand_frames_pass_in_order_and_are_counted() -> None:
    async def scenario() -> None:
        async with running(LinkProfile(up=DirectionProfile(delay_s=0.005))) as site:
            for first in range(0, 1000, 50):  # the kernel's own buffers may be small
                sent = [number.to_bytes(4, "big") for number in range(first, first + 50)]
                for frame in sent:
                    site.uplink(frame)
                assert [await receive(site.satellite) for _ in sent] == sent
            assert site.proxy.statistics()["up"]["delivered"] == 1000

    fly(scenario)


def test_the_largest_datagram_passes() -> None:
    async def scenario() -> None:
        async with running(LinkProfile()) as site:
            site.uplink(bytes(65_507))
            assert len(await receive(site.satellite)) == 65_507

    fly(scenario)


def test_time_scale_makes_link_seconds_short() -> None:
    async def scenario() -> None:
        profile = LinkProfile(up=DirectionProfile(delay_s=600), time_scale=60_000)
        async with running(profile) as site:
            site.uplink(b"ten minutes on the way")
            assert await receive(site.satellite) == b"ten minutes on the way"
            assert site.proxy.statistics()["link_time_s"] >= 600

    fly(scenario)


def test_a_frame_far_out_does_not_hold_up_a_near_one() -> None:
    async def scenario() -> None:
        conditions = {"up": DirectionProfile(delay_s=0.02), "down": DirectionProfile(delay_s=3600)}
        async with running(LinkProfile(**conditions)) as site:
            site.downlink(b"an hour away")
            await site.counted("down", "in_flight", 1)
            site.uplink(b"here soon")
            assert await receive(site.satellite) == b"here soon"

    fly(scenario)


def test_every_station_heard_gets_the_downlink() -> None:
    async def scenario() -> None:
        async with running(LinkProfile()) as site:
            with udp() as second:
                site.uplink(b"")
                second.sendto(b"", site.ground)
                while site.proxy.statistics()["stations"] < 2:
                    await asyncio.sleep(0.002)
                site.downlink(b"answer")
                assert await receive(site.station) == await receive(second) == b"answer"
            assert site.proxy.statistics()["up"]["offered"] == 0

    fly(scenario)


def test_the_number_of_stations_is_bounded_and_the_one_silent_longest_goes() -> None:
    async def scenario() -> None:
        async with running(LinkProfile()) as site:
            with contextlib.ExitStack() as stack:
                others = [stack.enter_context(udp()) for _ in range(LISTENERS_MAX + 1)]
                for number, other in enumerate(others):
                    other.sendto(b"here", site.ground)
                    await site.counted("up", "offered", number + 1)
                assert site.proxy.statistics()["stations"] == LISTENERS_MAX
                site.downlink(b"answer")
                assert await receive(others[-1]) == b"answer"
                assert not has_frame(others[0])

    fly(scenario)


def test_a_cut_through_the_control_socket_holds_until_restored(tmp_path: Path) -> None:
    control = tmp_path / "link.sock"

    async def scenario() -> None:
        async with running(LinkProfile(), control) as site:
            assert control.stat().st_mode & 0o777 == 0o600
            assert (await asyncio.to_thread(call_control, control, {"op": "cut"}))["up"]["is_cut"]
            site.uplink(b"into the void")
            await site.counted("up", "lost_gap", 1)
            answer = await asyncio.to_thread(call_control, control, {"op": "restore"})
            assert answer["up"]["is_up"]
            assert answer["down"]["is_up"]
            site.uplink(b"after")
            assert await receive(site.satellite) == b"after"
        assert not control.exists()

    fly(scenario)


def test_one_direction_is_cut_and_the_profile_changed_through_the_control_socket(tmp_path: Path) -> None:
    control = tmp_path / "link.sock"

    async def scenario() -> None:
        async with running(LinkProfile(), control) as site:

            def operate(**request: Any) -> dict[str, Any]:
                return call_control(control, request)

            answer = await asyncio.to_thread(operate, op="cut", direction="down")
            assert answer["down"]["is_cut"]
            assert not answer["up"]["is_cut"]
            assert (await asyncio.to_thread(operate, op="profile", name="one-way"))["profile"] == "one-way"
            assert (await asyncio.to_thread(operate, op="profile"))["profile"] == "one-way"
            for wrong, words in (
                ({"op": "explode"}, "explode"),
                ({"op": "cut", "direction": "left"}, "left"),
                ({"op": "profile", "name": "nope"}, "nope"),
                ({}, "None"),
            ):
                with pytest.raises(InputError, match=words) as caught:
                    await asyncio.to_thread(operate, **wrong)
                assert caught.value.hint
            assert site.proxy.statistics()["down"]["is_cut"]

    fly(scenario)


def test_the_control_socket_answers_rubbish_with_an_error_and_goes_on(tmp_path: Path) -> None:
    control = tmp_path / "link.sock"

    async def scenario() -> None:
        async with running(LinkProfile(), control):
            reader, writer = await asyncio.open_unix_connection(str(control))
            for rubbish in (b"\xff\xfe\n", b"[]\n", b"[" * 5000 + b"\n", b"\n"):
                writer.write(rubbish)
                assert not json.loads(await reader.readline())["ok"]
            writer.write(b'{"op": "statistics"}\n')
            assert json.loads(await reader.readline())["ok"]
            writer.write(b"x" * 100_000)  # longer than a line may be: the proxy hangs up
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
            assert (await asyncio.to_thread(call_control, control, {"op": "statistics"}))["ok"]

    fly(scenario)


def test_windows_count_from_the_epoch_given() -> None:
    async def scenario() -> None:
        profile = LinkProfile(contacts=(Contact(start_s=0, end_s=100),))
        async with running(profile, epoch_unix_s=1.0) as site:  # 1970: the only contact is long over
            site.uplink(b"too late")
            await site.counted("up", "lost_gap", 1)
            assert site.proxy.statistics()["epoch_unix_s"] == 1.0

    fly(scenario)


def test_a_port_in_use_is_told_with_a_hint() -> None:
    async def scenario() -> None:
        with udp() as taken:
            busy = Endpoint(host="127.0.0.1", port=taken.getsockname()[1])
            with pytest.raises(BusyError, match="in use") as caught:
                async with running(LinkProfile(), space=busy):
                    pass
            assert "--space" in caught.value.hint

    fly(scenario)


def test_an_address_of_another_machine_is_refused() -> None:
    async def scenario() -> None:
        with pytest.raises(InputError, match="--ground"):
            async with running(LinkProfile(), ground=Endpoint(host="192.0.2.1", port=0)):
                pass

    fly(scenario)


def test_a_second_emulator_on_one_control_socket_is_refused(tmp_path: Path) -> None:
    control = tmp_path / "link.sock"

    async def scenario() -> None:
        async with running(LinkProfile(), control):
            with pytest.raises(BusyError, match="another"):
                async with running(LinkProfile(), control):
                    pass
            assert (await asyncio.to_thread(call_control, control, {"op": "statistics"}))["ok"]

    fly(scenario)


def test_a_socket_left_by_a_dead_emulator_is_replaced_but_a_file_is_not(tmp_path: Path) -> None:
    control = tmp_path / "link.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(control))

    async def scenario() -> None:
        async with running(LinkProfile(), control):
            assert (await asyncio.to_thread(call_control, control, {"op": "statistics"}))["ok"]
        control.write_text("precious")
        with pytest.raises(InputError, match="not a socket"):
            async with running(LinkProfile(), control):
                pass
        assert control.read_text() == "precious"

    fly(scenario)


def test_nobody_at_the_control_socket_is_a_link_error_with_a_hint(tmp_path: Path) -> None:
    with pytest.raises(LinkError) as caught:
        call_control(tmp_path / "nobody.sock", {"op": "statistics"})
    assert "skyload link run" in caught.value.hint


def test_frames_wait_for_nothing_when_the_satellite_has_no_address_yet() -> None:
    async def scenario() -> None:
        async with running(LinkProfile(), satellite=Endpoint(host="satellite.invalid", port=7003)) as site:
            site.uplink(b"nowhere to go")
            await site.counted("up", "unsendable", 1)
            assert not site.proxy.statistics()["is_satellite_resolved"]

    fly(scenario)


@pytest.mark.parametrize("text", ["7001", ":7001", "host:", "host:x", "host:65536", "host:-1", ""])
def test_what_is_not_host_and_port_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="--ground"):
        Endpoint.parse(text, option="--ground")


def test_host_and_port_are_read_and_printed_alike() -> None:
    for text in ("127.0.0.1:7001", "satellite:0", "[::1]:65535"):
        assert str(Endpoint.parse(text, option="--ground")) == text


def test_a_statistics_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "link.json"
    write_statistics(path, {"a": 1})
    write_statistics(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 2}
    assert list(tmp_path.iterdir()) == [path]


def stations(**links: LinkProfile) -> LinkProfile:
    named = tuple(dataclasses.replace(link, name=name) for name, link in links.items())
    return LinkProfile(name="stations", stations=named)


def place_of(site: Site, name: str) -> tuple[str, int]:
    host, _, port = site.proxy.statistics()["links"][name]["ground"].rpartition(":")
    return host, int(port)


def test_stations_reach_the_satellite_each_over_its_own_link_and_all_in_contact_hear_it() -> None:
    async def scenario() -> None:
        profile = stations(
            near=LinkProfile(),
            deaf=LinkProfile(down=None),
            far=LinkProfile(contacts=(Contact(start_s=1e6, end_s=2e6),)),
        )
        async with running(profile) as site:
            with udp() as near, udp() as deaf, udp() as far:
                for name, station in (("near", near), ("deaf", deaf), ("far", far)):
                    station.sendto(name.encode(), place_of(site, name))
                site.uplink(b"home")
                assert {await receive(site.satellite) for _ in range(3)} == {b"near", b"deaf", b"home"}
                while not site.proxy.statistics()["links"]["far"]["up"]["offered"]:
                    await asyncio.sleep(0.002)
                site.downlink(b"answer")
                assert await receive(site.station) == await receive(near) == b"answer"
                assert not has_frame(deaf)
                assert not has_frame(far)
            links = site.proxy.statistics()["links"]
            assert {name: link["up"]["lost_gap"] for name, link in links.items()} == {"near": 0, "deaf": 0, "far": 1}
            assert {name: link["down"]["delivered"] for name, link in links.items()} == {"near": 1, "deaf": 0, "far": 0}
            assert links["near"]["stations"] == 1

    fly(scenario)


def test_the_link_of_one_station_is_cut_and_the_others_go_on(tmp_path: Path) -> None:
    control = tmp_path / "link.sock"

    async def scenario() -> None:
        async with running(stations(a=LinkProfile(), b=LinkProfile()), control) as site:
            answer = await asyncio.to_thread(call_control, control, {"op": "cut", "station": "a"})
            assert [answer["links"][name]["up"]["is_cut"] for name in "ab"] == [True, False]
            assert not answer["up"]["is_cut"]
            answer = await asyncio.to_thread(call_control, control, {"op": "cut"})
            assert [answer["links"][name]["up"]["is_cut"] for name in "ab"] == [True, True]
            for wrong, words in (
                ({"op": "cut", "station": "c"}, "no such station"),
                ({"op": "restore", "station": ""}, "no such station"),
                ({"op": "profile", "name": "clear"}, "other stations"),
            ):
                with pytest.raises(InputError, match=words):
                    await asyncio.to_thread(call_control, control, wrong)
            assert not site.proxy.statistics()["links"]["b"]["up"]["is_up"]

    fly(scenario)


def test_a_station_may_have_a_place_of_its_own_and_a_place_needs_a_station() -> None:
    async def scenario() -> None:
        with udp() as found:
            free = Endpoint(host="127.0.0.1", port=found.getsockname()[1])
        async with running(stations(a=LinkProfile(), b=LinkProfile()), listen={"a": free}) as site:
            assert site.proxy.statistics()["links"]["a"]["ground"] == str(free)
            with pytest.raises(BusyError, match="--listen b"):
                async with running(stations(b=LinkProfile()), listen={"b": free}):
                    pass
        with pytest.raises(InputError, match="--listen c: no such station"):
            async with running(stations(a=LinkProfile()), listen={"c": LOCAL}):
                pass

    fly(scenario)


def test_each_station_draws_its_own_luck_and_the_same_one_again() -> None:
    async def flown() -> dict[str, int]:
        half = LinkProfile(up=DirectionProfile(loss=0.5))
        async with running(stations(a=half, b=half), seed=7) as site:
            for name in "ab":
                for _ in range(200):
                    site.station.sendto(b"x", place_of(site, name))
                    await asyncio.sleep(0)
                while site.proxy.statistics()["links"][name]["up"]["offered"] < 200:
                    await asyncio.sleep(0.002)
            links = site.proxy.statistics()["links"]
            return {name: links[name]["up"]["lost_random"] for name in "ab"}

    async def scenario() -> None:
        first, second = await flown(), await flown()
        assert first == second
        assert first["a"] != first["b"]

    fly(scenario)
