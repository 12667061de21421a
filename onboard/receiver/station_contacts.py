"""Which contact each ground station is in, for both codecs, across restarts. A shell.

Driven by the receiver's shell: with what the intake found, with generations that a command raised. Writes the file in
the disk's thread, a while after something changed; no frame waits for that, and trouble of the disk is nobody else's:
whoever begins with an older number finds the right one again.
"""

import asyncio
import logging
from collections.abc import Mapping
from pathlib import Path

from onboard.errors import StoreError
from onboard.receiver.intake import Intake
from onboard.receiver.keeper import Keeper
from onboard.store.contact_file import read_contacts, write_contacts
from onboard.store.disk import Disk
from onboard.store.layout import StateLayout
from protocol.frame import FrameCodec
from protocol.limits import STATIONS_MAX

logger = logging.getLogger(__name__)

_PAUSE_S = 1.0  # between a change and writing it down


def go_on_with_contacts(path: Path, up: FrameCodec, down: FrameCodec) -> tuple[int, ...]:
    """Set two codecs to the contacts of the life before, in the generations of today; returns whose are later now."""
    later = []
    for station, (generation, contact) in enumerate(read_contacts(path)):
        if generation == up.generation(station) and contact > up.contact(station):
            up.set_contact(station, contact)
            down.set_contact(station, contact)
            later.append(station)
    return tuple(later)


class StationContacts:
    """See the module.

    Args:
        layout: where the file lies.
        up: codec of frames that come; the intake's.
        down: codec of frames that go.
        intake: forgets what it knows of a station whose key changes.
        keeper: has a thread for the disk.
        disk: the file's.
    """

    def __init__(
        self, layout: StateLayout, up: FrameCodec, down: FrameCodec, intake: Intake, keeper: Keeper, disk: Disk
    ) -> None:
        self._path, self._up, self._down = layout.contacts, up, down
        self._intake, self._keeper, self._disk = intake, keeper, disk
        self._has_news = asyncio.Event()

    def load(self) -> None:
        """Go on with the contacts of the life before, in the generations of today."""
        for station in go_on_with_contacts(self._path, self._up, self._down):
            self._intake.forget_station(station)

    def set_generation(self, station: int, generation: int) -> None:
        """Take and send frames of a station under the keys of a generation alone."""
        for codec in (self._up, self._down):
            codec.set_generation(station, generation)
        self._intake.forget_station(station)
        self._has_news.set()

    def heard(self, contacts: Mapping[int, int]) -> None:
        """Stations were heard in later contacts than before."""
        for station, contact in contacts.items():
            self._down.set_contact(station, contact)
            logger.info("contact station=%d number=%d", station, contact)
        self._has_news.set()

    async def run(self) -> None:
        """Write down what changes, for ever."""
        while True:
            await self._has_news.wait()
            await asyncio.sleep(_PAUSE_S)
            self._has_news.clear()
            try:
                await self.write()
            except asyncio.CancelledError:
                self._has_news.set()  # it may not have begun: `close` writes it
                raise

    async def write(self) -> None:
        """Write down what is known, if the disk will."""
        up = self._up
        heard = [(up.generation(station), up.contact(station)) for station in range(STATIONS_MAX)]
        try:
            await self._keeper.in_thread(write_contacts, self._path, heard, self._disk)
        except StoreError as error:
            logger.warning("contacts not written error=%s", error)

    async def close(self) -> None:
        """Write down what was not."""
        if self._has_news.is_set():
            await self.write()
