"""Adapters on board: merged or beside their base, held by a base that is missing or damaged, and given up if wrong."""

import asyncio
from dataclasses import replace

import pytest

from onboard.errors import InstallError
from onboard.installer.assemble import Assembly, Plan
from onboard.installer.release import copy_release
from onboard.store.bases import base_directory_of, base_of
from protocol.canary import Canary, CanaryPrompt
from protocol.manifest import AdapterEntry, AdapterUse, FileEntry, release_digest, sized
from protocol.report import Reason, UpdateState
from tests.fakes.adapters import make_adapter_update, smallest_adapter, smallest_release
from tests.fakes.onboard import Board
from tests.fakes.serving import answer_of
from tests.fakes.updates import FakeGround, digest_of, file_entries, write_files

BASE, ADAPTER = smallest_release(), smallest_adapter()
OTHER = {"config.json": b"{}", "model.safetensors": b"x" * 100}
USES = pytest.mark.parametrize("use", list(AdapterUse))


@pytest.fixture
def board(tmp_path):
    board = Board(tmp_path, FakeGround(), keep_releases=2)
    board.provision(BASE)
    return board


def update_of(board, use, *, adapter=ADAPTER, base=BASE, **options):
    update = make_adapter_update(board.ground, adapter, base, use, **options)
    prompt = CanaryPrompt(text="Hello", expected=answer_of(update.files, "Hello", 4))
    return board.ground.sign_again(update, canary=Canary(prompts=(prompt,), max_tokens=4))


def files_on_board(board, digest):
    return {path.name: path.read_bytes() for path in board.layout.release(digest).iterdir()}


@USES
def test_an_adapter_is_installed_tried_and_serves_and_a_revert_goes_back_to_its_base(board, use):
    update = update_of(board, use)

    async def scenario():
        async with board.life() as installer:
            await board.deliver(update)
            assert await board.until_ended(installer) is UpdateState.CONFIRMED
            assert board.serving.release == update.digest
            assert await installer.revert(None)
            assert board.serving.release == digest_of(BASE)

    asyncio.run(scenario())
    seen = files_on_board(board, update.digest)
    assert {name: data for name, data in seen.items() if not name.startswith(".")} == update.files
    assert {name for name in seen if name.startswith(".")} == {
        ".sha256sums",
        ".metadata.skm",
        ".guard-0",
        ".guard-1",
        ".parity",
    }


def test_what_flies_of_a_merged_release_is_the_adapter():
    update = make_adapter_update(FakeGround(), ADAPTER, BASE, AdapterUse.MERGE)
    assert sum(map(len, update.bundles)) < sum(map(len, ADAPTER.values())) + 400
    assert update.files["model.safetensors"] != BASE["model.safetensors"]
    assert update.manifest.files == sized(file_entries(update.files))
    assert update.manifest.release_digest == digest_of(update.files)


@USES
def test_a_base_that_is_not_on_board_holds_the_update_until_it_is(tmp_path, use):
    board = Board(tmp_path, FakeGround())
    board.provision(OTHER)
    update = update_of(board, use)

    async def scenario():
        async with board.life() as installer:
            await board.deliver(update)
            return installer.status().first

    standing = asyncio.run(scenario())
    assert (standing.state, standing.reason) == (UpdateState.BLOCKED, Reason.BASE_MISSING)
    board.provision(BASE, name="second")

    async def next_life():
        async with board.life() as installer:
            await board.until(lambda: installer.status().first.state is UpdateState.RECEIVING)
            await board.deliver(update)
            return await board.until_ended(installer)

    assert asyncio.run(next_life()) is UpdateState.CONFIRMED


@USES
def test_a_damaged_base_holds_the_update_until_it_is_mended(board, use):
    update = update_of(board, use)
    path = board.layout.release(digest_of(BASE)) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"!")

    async def scenario():
        async with board.life() as installer:
            await board.deliver(update)
            await board.until(lambda: installer.status().first.state is UpdateState.BLOCKED)
            assert installer.status().first.reason is Reason.BASE_DAMAGED
            assert board.serving.release == digest_of(BASE)
            path.write_bytes(BASE["model.safetensors"])
            assert await board.until_ended(installer) is UpdateState.CONFIRMED

    asyncio.run(scenario())


def test_a_base_stays_as_long_as_an_adapter_of_it_is_on_board(board):
    base, other = digest_of(BASE), {**OTHER, "config.json": b"[2]"}
    adapter = update_of(board, AdapterUse.BESIDE)
    assert asyncio.run(board.fly(adapter)) is UpdateState.CONFIRMED
    assert asyncio.run(board.fly(board.ground.make_update(OTHER))) is UpdateState.CONFIRMED
    known = {release.digest for release in board.record.releases}
    assert known == {base, adapter.digest, digest_of(OTHER)}, "two may stay, and what one of them is served with"
    assert asyncio.run(board.fly(board.ground.make_update(other))) is UpdateState.CONFIRMED
    assert {release.digest for release in board.record.releases} == {digest_of(OTHER), digest_of(other)}
    assert not board.layout.release(base).exists()


def test_a_merged_release_lets_its_base_go(board):
    update = update_of(board, AdapterUse.MERGE)
    for flown in (update, board.ground.make_update(OTHER)):
        assert asyncio.run(board.fly(flown)) is UpdateState.CONFIRMED
    assert {release.digest for release in board.record.releases} == {update.digest, digest_of(OTHER)}


@pytest.mark.parametrize("at", [0, 20], ids=["no note any more", "names another base"])
def test_a_flipped_bit_in_what_names_the_base_does_not_let_it_be_deleted(board, at):
    base, adapter = digest_of(BASE), update_of(board, AdapterUse.BESIDE)
    assert asyncio.run(board.fly(adapter)) is UpdateState.CONFIRMED
    note = board.layout.release(adapter.digest) / "skyload_adapter.json"
    data = bytearray(note.read_bytes())
    data[at] ^= 1
    note.write_bytes(data)
    assert asyncio.run(board.fly(board.ground.make_update(OTHER))) is UpdateState.CONFIRMED
    assert base in {known.digest for known in board.record.releases}


def test_one_adapter_of_two_bases_makes_two_releases(board):
    second = {**BASE, "config.json": b'{"model_type": "other"}'}
    digests = {make_adapter_update(board.ground, ADAPTER, base, AdapterUse.BESIDE).digest for base in (BASE, second)}
    assert len(digests) == 2


def test_a_release_says_where_its_base_lies(tmp_path):
    update = make_adapter_update(FakeGround(), ADAPTER, BASE, AdapterUse.BESIDE)
    release = write_files(tmp_path / "x", update.files)
    assert base_of(release) == digest_of(BASE)
    assert base_directory_of(release) == tmp_path / digest_of(BASE).hex()[:16]
    assert base_directory_of(write_files(tmp_path / "y", BASE)) is None
    (release / "skyload_adapter.json").write_bytes(b"{}")
    assert base_of(release) is None


# -- what a bad packer may sign


class Bench:
    """An assembly with all bundles in place, of an update signed with changes."""

    def __init__(self, directory, use, *, adapter=ADAPTER, entry=None):
        ground = FakeGround()
        update = make_adapter_update(ground, ADAPTER, BASE, use)
        if adapter is not ADAPTER:
            update = _carrying(ground, adapter, update)
        manifest = update.manifest if entry is None else replace(update.manifest, adapter=entry)
        base = copy_release(write_files(directory / "base", BASE), directory)
        packed = ground.versions - 1  # signed once more since
        plan = Plan(manifest=manifest, release_key=ground._secret(f"release key {packed} {packed}"), base=base)
        self.assembly = Assembly.open(directory / "x.part", plan)
        for number, data in enumerate(update.bundles):
            path = directory / f"bundle-{number}"
            path.write_bytes(data)
            self.assembly.install(path, number)

    def reason(self):
        with pytest.raises(InstallError) as caught:
            self.assembly.verify()
        return caught.value.reason


def _carrying(ground, adapter, like):
    """Sign the release of a good update, and send another adapter."""
    update = ground.make_update(adapter, signed_files=like.files)
    entry = AdapterEntry.to_merge(file_entries(adapter))
    return ground.sign_again(update, base=like.manifest.base, adapter=entry)


def test_a_good_one_passes(tmp_path):
    bench = Bench(tmp_path, AdapterUse.MERGE)
    bench.assembly.verify()
    bench.assembly.verify()


def test_another_adapter_than_the_one_that_was_merged_is_a_digest_mismatch(tmp_path):
    assert Bench(tmp_path, AdapterUse.MERGE, adapter=smallest_adapter(2.0)).reason() is Reason.DIGEST_MISMATCH


@pytest.mark.parametrize("config", [b"{}", b'{"peft_type": "LORA", "r": 1, "lora_alpha": 2, "use_dora": true}'])
def test_an_adapter_that_is_not_plain_is_given_up(tmp_path, config):
    adapter = {**ADAPTER, "adapter_config.json": config}
    assert Bench(tmp_path, AdapterUse.MERGE, adapter=adapter).reason() is Reason.BUNDLE_DAMAGED


def test_weights_that_are_none_are_given_up(tmp_path):
    adapter = {**ADAPTER, "adapter_model.safetensors": b"\xff" * 64}
    assert Bench(tmp_path, AdapterUse.MERGE, adapter=adapter).reason() is Reason.BUNDLE_DAMAGED


def test_an_adapter_whose_bytes_are_not_the_signed_ones_is_a_digest_mismatch(tmp_path):
    entry = replace(AdapterEntry.to_merge(file_entries(ADAPTER)), digest=bytes(32))
    assert Bench(tmp_path, AdapterUse.MERGE, entry=entry).reason() is Reason.DIGEST_MISMATCH


def test_a_release_of_other_files_than_its_base_has_is_a_digest_mismatch(tmp_path):
    files = (FileEntry(name="x.safetensors", size_bytes=3, sha256=bytes(32)),)
    bench = Bench(tmp_path, AdapterUse.MERGE)
    manifest = replace(bench.assembly.plan.manifest, files=sized(files), release_digest=release_digest(files))
    step = replace(bench.assembly._adapter_step(), manifest=manifest)
    with pytest.raises(InstallError) as caught:
        step.run()
    assert caught.value.reason is Reason.DIGEST_MISMATCH


def test_an_adapter_that_names_another_base_than_its_manifest_is_given_up(tmp_path):
    bench = Bench(tmp_path, AdapterUse.BESIDE)
    step = bench.assembly._adapter_step()
    assert step.run() is None
    with pytest.raises(InstallError) as caught:
        replace(step, manifest=replace(step.manifest, base=bytes(32))).run()
    assert caught.value.reason is Reason.BUNDLE_DAMAGED
