"""The scrubber: slowly over everything, at once when told; what it finds is counted, told once, and asked for."""

import asyncio
import contextlib

import pytest

from onboard.errors import StoreFullError
from onboard.scrub.answering import LinkWatch, read_scrub
from onboard.scrub.damage import Flip
from onboard.scrub.guard import GUARD_NAMES, Guard
from onboard.scrub.ledger import ENTRIES_MAX, Ledger, LedgerFile
from onboard.scrub.pacing import PAUSE_S_MIN, next_release, pause_s
from onboard.scrub.shell import Scrubber, ScrubStoppedError, ScrubSurroundings
from onboard.store.disk import RealDisk
from onboard.store.layout import StateLayout
from onboard.telemetry import Telemetry
from protocol.damage import DamageReport, LostRange
from protocol.errors import DecodeError
from protocol.message import MessageKind
from tests.fakes.scrubbing import SMALL, GuardedRelease

MODEL = "model.safetensors"


@pytest.fixture(autouse=True)
def no_search(monkeypatch):
    """What is ruined here is ruined: nobody has to search it bit by bit."""
    monkeypatch.setattr("onboard.scrub.repair._SEARCHES_MAX", 0)


class Craft:
    """A state directory with releases and a scrubber."""

    def __init__(self, directory, num_releases=1, *, period_s=1000.0, sizes=SMALL):
        self.layout = StateLayout(directory)
        self.releases = []
        for seed in range(num_releases):
            release = GuardedRelease(directory / "made" / str(seed), sizes, seed=seed)
            target = self.layout.release(release.digest)
            target.parent.mkdir(exist_ok=True)
            release.directory = release.directory.rename(target)
            self.releases.append(release)
        self.period_s = period_s
        self.busy, self.said, self.held, self.mended = False, [], [], []
        self.gone = set()

    def say(self, kind, *, body):
        self.said.append((kind, body))

    @contextlib.asynccontextmanager
    async def hold(self, digest):
        self.held.append(digest)
        yield

    def files_of(self, directory, digest):
        return next(release for release in self.releases if release.digest == digest).entries

    def scrubber(self):
        self.telemetry = Telemetry(lambda: 0.0)
        return Scrubber(
            ScrubSurroundings(
                layout=self.layout,
                releases=lambda: [r.digest for r in self.releases if r.digest not in self.gone],
                files_of=self.files_of,
                hold=self.hold,
                is_busy=lambda: self.busy,
                messages=self,
                telemetry=self.telemetry,
                on_mended=lambda digest, right_s: self.mended.append((digest, right_s)),
                period_s=self.period_s,
                boot=3,
                disk=RealDisk(),
            )
        )

    def scrub(self, digest=None, **options):
        async def work():
            return await self.scrubber().scrub(digest, **options)

        return asyncio.run(work())

    async def steps(self, scrubber, count):
        return [await scrubber._step() for _ in range(count)]


def ruin(release):
    """Damage two blocks of one group beyond repair; returns the ranges."""
    guard = Guard.open(release.directory, release.digest, release.disk)
    spans = [guard.map.where(block) for block in list(guard.map.group(0, 0))[3:5]]
    for span in spans:
        release.overwrite(MODEL, span.offset, span.size)
    return tuple(LostRange(file=span.file, offset=span.offset, size=span.size) for span in spans)


def test_told_to_it_scrubs_all_releases_and_counts_across_restarts(tmp_path):
    craft = Craft(tmp_path, 2)
    for release in craft.releases:
        release.flip_any(3)
    assert [outcome.num_repaired for outcome in craft.scrub()] == [3, 3]
    assert craft.scrub(craft.releases[0].digest)[0].flips == ()
    assert craft.held == [craft.releases[0].digest, craft.releases[1].digest, craft.releases[0].digest]

    async def look():
        return craft.scrubber().status()

    status = asyncio.run(look())
    assert (status["flips_found"], status["flips_repaired"], status["num_scrubs"]) == (6, 6, 3)
    assert sorted(flip["boot"] for flip in status["last_flips"]) == [3] * 6
    assert craft.telemetry.counters() == {}


def test_what_is_lost_is_asked_for_once_and_taken_back_when_it_is_whole_again(tmp_path):
    craft = Craft(tmp_path)
    (release,) = craft.releases
    whole = release.read(MODEL)
    lost = ruin(release)
    for _ in range(2):
        craft.scrub()
    assert [kind for kind, _ in craft.said] == [MessageKind.DAMAGE]
    assert DamageReport.from_body(craft.said[0][1]) == DamageReport(release=release.digest, lost=lost)
    release.put(MODEL, whole)
    craft.scrub()
    assert DamageReport.from_body(craft.said[1][1]) == DamageReport(release=release.digest, lost=())

    async def look():
        return craft.scrubber().ledger

    ledger = asyncio.run(look())
    assert (ledger.num_found, ledger.num_repaired, ledger.lost) == (2, 0, ())


def test_the_slow_pace_reads_everything_in_a_period_and_goes_on_after_a_restart(tmp_path):
    craft = Craft(tmp_path, 2)

    async def first_life():
        scrubber = craft.scrubber()
        pauses = await craft.steps(scrubber, 3)
        scrubber._keep(scrubber.ledger)
        return scrubber.ledger, pauses

    async def second_life():
        scrubber = craft.scrubber()
        ledger, pauses = scrubber.ledger, []
        while scrubber.ledger.num_scrubs < 2:
            pauses += await craft.steps(scrubber, 1)
        return ledger, pauses

    ledger, first = asyncio.run(first_life())
    assert ledger.release == craft.releases[0].digest
    assert ledger.cell > 0
    taken_up, second = asyncio.run(second_life())
    assert taken_up == ledger
    assert sum(first + second) == pytest.approx(1000, rel=0.1)


def test_the_slow_pace_repairs_what_it_comes_across_and_turns_to_the_next_release(tmp_path):
    craft = Craft(tmp_path, 2)
    for release in craft.releases:
        release.flip_any(2)

    async def life():
        scrubber = craft.scrubber()
        for _ in range(20):
            await scrubber._step()
            if all(release.is_whole for release in craft.releases):
                return scrubber.ledger.num_repaired
        return None

    assert asyncio.run(life()) == 4


def test_the_slow_pace_notices_an_empty_file_that_is_gone(tmp_path):
    craft = Craft(tmp_path, sizes={**SMALL, "empty.txt": 0})
    empty = craft.releases[0].directory / "empty.txt"
    empty.unlink()

    async def life():
        scrubber = craft.scrubber()
        for _ in range(20):
            await scrubber._step()
            if empty.exists():
                return scrubber.ledger.num_repaired
        return None

    assert asyncio.run(life()) == 1


def test_known_damage_does_not_make_every_round_a_full_scrub(tmp_path):
    craft = Craft(tmp_path)
    ruin(craft.releases[0])
    craft.scrub()
    before = len(craft.held)

    async def life():
        await craft.steps(craft.scrubber(), 12)

    asyncio.run(life())
    assert len(craft.held) == before
    craft.releases[0].flip(MODEL, 8 * 100_000)
    asyncio.run(life())
    assert len(craft.held) == before + 1


def test_the_slow_pace_notices_that_what_was_lost_is_back(tmp_path):
    craft = Craft(tmp_path)
    (release,) = craft.releases
    whole = release.read(MODEL)
    ruin(release)
    craft.scrub()
    release.put(MODEL, whole)

    async def life():
        scrubber = craft.scrubber()
        await craft.steps(scrubber, 12)
        return scrubber.ledger

    assert asyncio.run(life()).lost == ()
    assert DamageReport.from_body(craft.said[-1][1]).lost == ()


def test_whoever_loaded_a_release_hears_that_its_files_were_mended_and_since_when_they_may_have_been_wrong(tmp_path):
    craft = Craft(tmp_path)
    (release,) = craft.releases

    async def life():
        scrubber, loop = craft.scrubber(), asyncio.get_running_loop()
        release.flip(MODEL, 99)
        await scrubber.scrub()
        assert craft.mended.pop() == (release.digest, float("-inf"))  # never yet seen right
        release.flip(GUARD_NAMES[0], 99)
        await scrubber.scrub()
        assert craft.mended == []  # nobody loads that
        before = loop.time()
        while scrubber.ledger.num_scrubs < 3:  # the slow pace has seen all of it
            await scrubber._step()
        after = loop.time()
        release.flip(MODEL, 99)
        await scrubber.scrub()
        digest, right_s = craft.mended.pop()
        assert digest == release.digest
        assert before <= right_s <= after

    asyncio.run(life())


def test_a_damaged_copy_of_the_guard_is_mended_on_the_way(tmp_path):
    craft = Craft(tmp_path)
    (release,) = craft.releases
    good = release.read(GUARD_NAMES[1])
    release.flip(GUARD_NAMES[1], 8 * 4100)

    async def life():
        await craft.steps(craft.scrubber(), 10)

    asyncio.run(life())
    assert release.read(GUARD_NAMES[1]) == good


def test_a_release_that_went_meanwhile_is_no_damage(tmp_path):
    craft = Craft(tmp_path)
    craft.gone.add(craft.releases[0].digest)
    assert craft.scrub(craft.releases[0].digest) == []
    assert craft.said == []


def test_what_was_lost_of_a_release_that_is_gone_is_not_asked_for_any_more(tmp_path):
    craft = Craft(tmp_path, 2)
    ruin(craft.releases[0])
    craft.scrub()
    craft.gone.add(craft.releases[0].digest)

    async def life():
        scrubber = craft.scrubber()
        await craft.steps(scrubber, 2)
        return scrubber.ledger

    assert asyncio.run(life()).lost == ()
    assert len(craft.said) == 2
    assert DamageReport.from_body(craft.said[1][1]) == DamageReport(release=craft.releases[0].digest, lost=())


def test_a_bug_in_scrubbing_one_release_stops_neither_the_loop_nor_the_others(tmp_path, monkeypatch):
    craft = Craft(tmp_path, 2)
    craft.releases[1].flip(MODEL, 99)
    first = craft.layout.release(craft.releases[0].digest)
    opened = Guard.open

    def fail(directory, digest, disk):
        if directory == first:
            raise AssertionError("a bug")
        return opened(directory, digest, disk)

    monkeypatch.setattr(Guard, "open", fail)

    async def life():
        await craft.steps(craft.scrubber(), 8)

    asyncio.run(life())
    assert craft.releases[1].is_whole
    assert craft.telemetry.counters()["scrub_failed"] >= 1


def test_a_disk_that_takes_no_ledger_stops_no_repair(tmp_path, monkeypatch):
    craft = Craft(tmp_path)
    (release,) = craft.releases
    release.flip(MODEL, 17)

    def refuse(*arguments):
        raise StoreFullError("no space")

    monkeypatch.setattr("onboard.scrub.ledger.replace_file", refuse)
    assert craft.scrub()[0].num_repaired == 1
    assert release.is_whole
    assert craft.telemetry.counters()["scrub_failed"] == 1


def test_a_scrub_that_nobody_waits_for_ends_at_the_next_megabyte(tmp_path):
    craft = Craft(tmp_path)

    async def life():
        scrubber = craft.scrubber()
        scrubber._stopped.set()
        with pytest.raises(ScrubStoppedError):
            await scrubber.scrub()

    asyncio.run(life())


def test_while_others_are_busy_the_loop_waits_and_full_speed_slows_down(tmp_path):
    craft = Craft(tmp_path)
    craft.busy = True
    waits = []

    async def life():
        scrubber = craft.scrubber()
        scrubber._stopped.wait = waits.append
        await scrubber.scrub()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await scrubber._wait_while_busy()
        craft.busy = False
        await scrubber._wait_while_busy()

    asyncio.run(life())
    assert waits


def test_flips_in_memory_are_counted_apart(tmp_path):
    craft = Craft(tmp_path)

    async def life():
        scrubber = craft.scrubber()
        scrubber.note_memory_flip(craft.releases[0].digest, "lm_head.weight", 4096, 7)
        return scrubber.status()

    status = asyncio.run(life())
    assert (status["flips_found"], status["flips_in_memory"]) == (0, 1)
    assert status["last_flips"][0]["is_memory"] is True
    assert craft.telemetry.counters() == {"weights_flipped": 1}


def test_a_ledger_is_bounded_and_comes_back_as_it_was(tmp_path):
    ledger = Ledger(release=b"r" * 32, cell=9, lost=((b"d" * 32, (LostRange(file=1, offset=4096, size=10),)),))
    for number in range(ENTRIES_MAX + 5):
        ledger = ledger.with_memory_flip(b"d" * 32, Flip(file="w", offset=number), boot=1, uptime_s=2.5)
    assert len(ledger.entries) == ENTRIES_MAX
    assert ledger.num_memory == ENTRIES_MAX + 5
    assert Ledger.decode(ledger.encode()) == ledger
    file = LedgerFile(tmp_path / "ledger", RealDisk())
    file.store(ledger)
    again = LedgerFile(tmp_path / "ledger", RealDisk())
    again.load()
    assert again.ledger == ledger
    (tmp_path / "ledger").write_bytes(b"junk")
    again.load()
    assert again.ledger == Ledger()


def test_the_pace_is_the_share_of_the_period():
    assert pause_s(1 << 20, 100 << 20, period_s=5700) == pytest.approx(57)
    assert pause_s(1, 1 << 40, period_s=1) == PAUSE_S_MIN
    assert next_release([b"a", b"b"], b"a") == b"b"
    assert next_release([b"a", b"b"], b"b") == b"a"
    assert next_release([b"a", b"b"], b"gone") == b"a"
    assert next_release([], b"a") is None


def test_the_link_is_busy_for_a_moment_after_a_frame():
    count, clock = [0], [100.0]
    watch = LinkWatch(lambda: count[0], lambda: clock[0])
    assert not watch.is_busy()
    count[0] += 1
    assert watch.is_busy()
    clock[0] += 5
    assert not watch.is_busy()


def test_the_arguments_of_a_command_are_checked():
    assert read_scrub({"release": None, "now": True}) == (None, True)
    for bad in (
        {},
        {"release": b"short", "now": True},
        {"release": None, "now": 1},
        {"release": None, "now": True, "x": 1},
    ):
        with pytest.raises(DecodeError):
            read_scrub(bad)


def test_a_damage_report_says_when_it_is_not_all():
    lost = tuple(LostRange(file=0, offset=8192 * at, size=4096) for at in range(3000))
    body = DamageReport(release=b"d" * 32, lost=lost).to_body()
    read = DamageReport.from_body(body)
    assert (len(read.lost), read.is_all) == (2048, False)
    whole = [[0, 0, 0], [1, 8, 4], [2, 0, 0], [3, 0, 0]]  # of unknown length
    assert [each.size for each in DamageReport.from_body({**body, "lost": whole}).lost] == [0, 4, 0, 0]
    for ranges in (
        [[0, 8, 0]],
        [[0, 0, 0], [0, 0, 0]],
        [[0, 0, 0], [0, 8, 1]],
        [[0, 10, 20], [0, 5, 5]],
        [[1, 0, 1], [0, 0, 1]],
        [[0, 0]],
        [[-1, 0, 1]],
    ):
        with pytest.raises(DecodeError):
            DamageReport.from_body({**body, "lost": ranges})


def test_what_is_lost_is_said_before_it_is_noted_so_that_a_power_cut_between_loses_no_question(tmp_path, monkeypatch):
    craft = Craft(tmp_path)
    lost = ruin(craft.releases[0])
    monkeypatch.setattr(craft, "say", lambda kind, *, body: 1 / 0)  # the power goes
    with pytest.raises(ZeroDivisionError):
        craft.scrub()
    monkeypatch.undo()
    monkeypatch.setattr("onboard.scrub.repair._SEARCHES_MAX", 0)
    craft.scrub()
    assert [DamageReport.from_body(body).lost for _, body in craft.said] == [lost]
    craft.gone.add(craft.releases[0].digest)
    monkeypatch.setattr(craft, "say", lambda kind, *, body: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        asyncio.run(_forget_gone(craft))
    monkeypatch.undo()
    asyncio.run(_forget_gone(craft))
    assert DamageReport.from_body(craft.said[-1][1]).lost == ()


async def _forget_gone(craft):
    craft.scrubber()._forget_gone([])


def test_a_disk_that_takes_no_repair_does_not_make_what_was_lost_whole(tmp_path, monkeypatch):
    craft = Craft(tmp_path)
    lost = ruin(craft.releases[0])
    craft.scrub()

    def full(*args):
        raise StoreFullError("no space")

    with monkeypatch.context() as broken:
        broken.setattr(RealDisk, "allocate", full)
        (outcome,) = craft.scrub()
    assert outcome.trouble
    assert [DamageReport.from_body(body).lost for _, body in craft.said] == [lost]
    craft.scrub()
    assert len(craft.said) == 1


def test_one_release_that_cannot_be_scrubbed_does_not_keep_the_others_from_it(tmp_path):
    craft = Craft(tmp_path, 2)
    first, second = craft.releases
    for name in GUARD_NAMES:
        (first.directory / name).unlink()
    craft.files_of = lambda directory, digest: (_ for _ in ()).throw(StoreFullError("no file list"))
    second.flip_any(2)
    outcomes = craft.scrub()
    assert [outcome.is_whole for outcome in outcomes] == [False, True]
    assert "no file list" in outcomes[0].trouble
    assert second.is_whole
    with pytest.raises(StoreFullError):
        craft.scrub(first.digest)
