"""What the satellite trusts changes on board: roots, epochs, nonces, and a root whose copies are damaged."""

import asyncio
import hashlib
from dataclasses import replace

import pytest
from securesystemslib.formats import encode_canonical
from securesystemslib.signer import SSlibKey

from onboard.installer import shell
from onboard.installer.core import Fate
from onboard.installer.freshness import LIFE_BOOTS, Nonces
from onboard.receiver_ports import Status
from onboard.store.facts import OnboardRecord
from onboard.store.record import RecordStore
from onboard.store.roots import root_digest, root_paths
from onboard.store.trust_facts import trust_state_of, with_trust
from protocol.arming import INTENT_SIZE, Armed
from protocol.canary import Canary, CanaryPrompt
from protocol.command import NONCE_SIZE
from protocol.errors import DecodeError
from protocol.objects import ObjectKind, object_handle
from protocol.report import FRESHNESS_SIZE, NO_NONCE, Reason, UpdateState
from protocol.roots import read_root
from protocol.trust import COMMAND_FIELD, NONCE_FIELD, TrustState, command_keys
from tests.fakes.onboard import Board
from tests.fakes.rotation import rotation, successor
from tests.fakes.serving import answer_of
from tests.fakes.updates import SERIALIZER, FakeGround

OLD = {"config.json": b'{"old": 1}', "model.bin": bytes(range(256)) * 8}
NEW = {"config.json": b'{"new": 2}', "model.bin": bytes(range(256)) * 6 + bytes(512)}
CANARY = Canary(prompts=(CanaryPrompt(text="Hello", expected=answer_of(NEW, "Hello", 4)),), max_tokens=4)


@pytest.fixture
def ground():
    return FakeGround()


@pytest.fixture
def board(tmp_path, ground):
    board = Board(tmp_path, ground)
    board.provision(OLD)
    return board


def hand_over(board, *objects):
    """One life that takes metadata objects; returns the last fate."""

    async def run():
        async with board.life():
            return [await board.hand_over(data, ObjectKind.METADATA) for data in objects][-1]

    return asyncio.run(run())


def refusal(board, data):
    async def run():
        async with board.life() as installer:
            assert await board.hand_over(data, ObjectKind.METADATA) is Fate.USED
            return installer.refusal_of(object_handle(data))

    return asyncio.run(run())


def key_id_of(key):
    text = encode_canonical({"keytype": key.keytype, "scheme": key.scheme, "keyval": key.keyval})
    return hashlib.sha256(text.encode()).hexdigest()


def damage(board, *numbers):
    paths = root_paths(board.layout, board.record.root_digest)
    for number in numbers:
        paths[number].write_bytes(b"garbage")


def test_new_roots_without_an_update_are_followed_durably_and_their_keys_command(board, ground):
    new, root = successor(ground)

    async def run():
        async with board.life() as installer:
            data = rotation(root)
            assert await board.hand_over(data, ObjectKind.METADATA) is Fate.USED
            assert installer.is_complete(object_handle(data))
            assert installer.status().root_version == 2
            return installer.root

    assert command_keys(asyncio.run(run())) == command_keys(new.root)
    assert board.record.root_version == 2
    assert [path.read_bytes() for path in root_paths(board.layout, board.record.root_digest)] == [root] * 3
    assert len(list(board.layout.state_dir.glob("root-*"))) == 3


def test_an_update_of_the_new_keys_is_installed_and_one_of_the_old_keys_is_not(board, ground):
    new, root = successor(ground)
    old_update = ground.make_update(NEW, base=OLD, canary=CANARY)
    assert hand_over(board, rotation(root)) is Fate.USED
    assert refusal(board, old_update.metadata) is Reason.UNSIGNED
    new.versions = ground.versions
    assert asyncio.run(board.fly(new.make_update(NEW, base=OLD, canary=CANARY))) is UpdateState.CONFIRMED


def test_an_update_brings_the_roots_that_were_missed(board, ground):
    second, root_2 = successor(ground)
    third, root_3 = successor(second, b"third keys")
    update = third.make_update(NEW, base=OLD, canary=CANARY)
    update = replace(update, metadata=third.sign_manifest(update.manifest, 1, roots=(root_2, root_3)))
    assert asyncio.run(board.fly(update)) is UpdateState.CONFIRMED
    assert (board.record.root_version, board.record.root_digest) == (3, root_digest(root_3))


def test_a_rotation_that_comes_again_changes_nothing(board, ground):
    _, root = successor(ground)
    hand_over(board, rotation(root))
    before = board.record
    assert hand_over(board, rotation(root), rotation(root, label="again")) is Fate.USED
    assert board.record == before


def test_what_an_old_root_refused_is_asked_again_of_the_new_one(board, ground):
    new, root = successor(ground)
    update = new.make_update(NEW, base=OLD, canary=CANARY)

    async def run():
        async with board.life() as installer:
            await board.hand_over(update.metadata, ObjectKind.METADATA)
            assert installer.refusal_of(update.handle) is Reason.UNSIGNED
            await board.hand_over(rotation(root), ObjectKind.METADATA)
            assert not installer.is_complete(update.handle)
            await board.deliver(update)
            return await board.until_ended(installer)

    assert asyncio.run(run()) is UpdateState.CONFIRMED


# -- epochs


def test_a_new_epoch_ends_what_is_pending_and_starts_the_counters_again(board, ground):
    stolen = ground.make_update(NEW, version=2**31, sequence=2**31, floor=2**31)
    new, root = successor(ground, epoch=1, floor=2)

    async def run():
        async with board.life() as installer:
            await board.hand_over(stolen.metadata, ObjectKind.METADATA)
            assert installer.status().accepted == 2**31
            await board.hand_over(rotation(root), ObjectKind.METADATA)
            status = installer.status()
            assert (status.first.state, status.first.reason) == (UpdateState.CANCELLED, Reason.EPOCH_ENDED)
            assert (status.epoch, status.accepted, status.floor) == (1, 0, 2)
            new.versions = 2
            update = new.make_update(NEW, base=OLD, canary=CANARY)
            await board.deliver(update)
            await board.until_ended(installer)
            return installer.status().first

    assert asyncio.run(run()).state is UpdateState.CONFIRMED
    assert (board.record.epoch, board.record.accepted, board.record.floor) == (1, 3, 2)
    assert [kind for kind, _, body in board.messages.said.values() if body["reason"] == "epoch_ended"]


def test_a_new_epoch_stops_a_trial_that_runs(tmp_path, ground):
    board = Board(tmp_path, ground, probation_s=600.0)
    old = board.provision(OLD)
    stolen = ground.make_update(NEW, base=OLD, canary=CANARY)
    _, root = successor(ground, epoch=1)

    async def run():
        async with board.life() as installer:
            await board.deliver(stolen)
            await board.until(lambda: board.serving.release == stolen.digest)
            assert installer.status().first.state is UpdateState.TRIAL
            await board.hand_over(rotation(root), ObjectKind.METADATA)
            await board.until(lambda: board.serving.release == old)
            return installer.status().first

    first = asyncio.run(run())
    assert (first.state, first.reason) == (UpdateState.CANCELLED, Reason.EPOCH_ENDED)
    assert board.record.current == old


def test_a_new_epoch_in_an_update_ends_the_others_even_if_it_goes_beside_them(board, ground):
    big = ground.make_update(NEW)
    new, root = successor(ground, epoch=1)
    update = new.make_update({**NEW, "config.json": b"{}"}, beside=True)
    data = new.sign_manifest(update.manifest, 1, roots=(root,))
    hand_over(board, big.metadata, data)
    assert [entry.handle for entry in board.record.pending] == [object_handle(data)]
    assert board.record.update(big.handle).reason is Reason.EPOCH_ENDED


def test_a_rotation_within_an_epoch_leaves_what_is_pending_alone(board, ground):
    big = ground.make_update(NEW)
    _, root = successor(ground)
    hand_over(board, big.metadata, rotation(root))
    assert [entry.handle for entry in board.record.pending] == [big.handle]
    assert board.record.accepted == 1


def test_a_floor_that_was_confirmed_while_an_update_was_judged_stays():
    record = OnboardRecord(floor=2, accepted=4)
    judged = trust_state_of(record, b"root")
    assert with_trust(replace(record, floor=7), judged, b"d" * 32).floor == 7


def test_all_that_is_trusted_is_in_the_record():
    state = TrustState(root=b"root", root_version=3, epoch=2, accepted=7, closed=5, floor=4, time_floor=1000)
    record = with_trust(OnboardRecord(), state, root_digest(b"root"))
    assert trust_state_of(record, b"root") == state
    assert record.root_digest == root_digest(b"root")


# -- a damaged root


@pytest.mark.parametrize("numbers", [(0,), (1, 2)])
def test_a_damaged_copy_of_the_root_costs_nothing(board, ground, numbers):
    new, root = successor(ground)
    hand_over(board, rotation(root))
    damage(board, *numbers)
    update = new.make_update(NEW, base=OLD, canary=CANARY)
    assert asyncio.run(board.fly(update)) is UpdateState.CONFIRMED


def test_a_lost_root_never_lets_revoked_keys_in_and_is_found_again_by_the_chain(board, ground):
    _, root = successor(ground)
    hand_over(board, rotation(root))
    damage(board, 0, 1, 2)
    update = ground.make_update(NEW, base=OLD, canary=CANARY)  # signed by the keys that the kit's root still names

    async def run():
        async with board.life() as installer:
            assert installer.root == b""
            assert not command_keys(installer.root)
            assert installer.status().root_version == 1  # the ground sends what follows it
            await board.hand_over(update.metadata, ObjectKind.METADATA)
            assert installer.refusal_of(update.handle) is Reason.TRUST_LOST
            await board.hand_over(rotation(root), ObjectKind.METADATA)
            assert installer.root == root
            return installer.status().root_version

    assert asyncio.run(run()) == 2
    assert [path.read_bytes() for path in root_paths(board.layout, board.record.root_digest)] == [root] * 3


# -- freshness


def fresh(ground, update, nonce):
    """The update's metadata with a nonce in its timestamp."""
    from tuf.api.metadata import Metadata

    from protocol.metadata import MetadataBundle
    from tests.fakes.updates import SERIALIZER

    bundle = MetadataBundle.decode(update.metadata)
    metadata = Metadata.from_bytes(bundle.timestamp)
    metadata.signed.unrecognized_fields[NONCE_FIELD] = nonce.hex()
    metadata.sign(ground.signers["timestamp"])
    return replace(bundle, timestamp=metadata.to_bytes(SERIALIZER)).encode()


def test_a_satellite_that_wants_fresh_updates_takes_those_that_echo_what_it_told(board, ground):
    board.must_be_fresh = True
    store = RecordStore(board.layout.record)
    store.load()
    nonces = Nonces(store, lambda size: b"r" * size)
    nonces.begin()
    update = ground.make_update(NEW)
    assert refusal(board, update.metadata) is Reason.NOT_FRESH
    assert refusal(board, fresh(ground, update, b"x" * FRESHNESS_SIZE)) is Reason.NOT_FRESH
    assert refusal(board, fresh(ground, update, NO_NONCE)) is Reason.NOT_FRESH
    assert refusal(board, fresh(ground, update, nonces.told)) is None
    assert board.record.is_pending(object_handle(fresh(ground, update, nonces.told)))


def test_a_satellite_that_runs_for_a_day_tells_another_nonce(board, monkeypatch):
    monkeypatch.setattr(shell, "NONCE_LIFE_S", 0.01)

    async def run():
        async with board.life() as installer:
            seen = installer.status().nonce
            await board.until(lambda: installer.status().nonce != seen)
            return installer.status().nonce

    assert asyncio.run(run()) in board.record.nonces


def test_a_nonce_lives_for_eight_starts_and_the_one_before_it_counts(tmp_path):
    store = RecordStore(tmp_path / "trust.record")
    store.create(OnboardRecord())
    made = iter(range(1, 100))
    nonces = Nonces(store, lambda size: bytes([next(made)]) * size)
    seen = []
    for boot in range(1, 2 * LIFE_BOOTS + 2):
        store.store(replace(store.record, boot_count=boot))
        nonces.begin()
        seen.append(nonces.told)
        assert int.from_bytes(nonces.told[:4], "big") > boot - LIFE_BOOTS
        assert nonces.told in nonces.known
    assert len(set(seen)) == 3
    assert nonces.known == (seen[-1], seen[LIFE_BOOTS])


# -- command counters, and roots that were lost


def used_up(board, ground):
    """What a thief of the command key does: the highest counter there is."""
    store = RecordStore(board.layout.record)
    store.load()
    arm = Armed(counter=7, intent=bytes(INTENT_SIZE), nonce=bytes(NONCE_SIZE), boot=1)
    store.store(replace(store.record, command_highest=2**63 - 1, command_seen=1, armed=(arm,)))


def test_the_highest_number_of_a_command_is_told_so_that_a_restored_ground_goes_on_above_it(board):
    store = RecordStore(board.layout.record)
    store.load()
    store.store(replace(store.record, command_highest=41, command_seen=1))

    async def run():
        async with board.life() as installer:
            return Status(installer, boot_count=1).report_status().commands

    assert asyncio.run(run()) == 41


def test_a_root_with_other_command_keys_gives_the_counters_back_that_a_thief_used_up(board, ground):
    used_up(board, ground)
    _, root = successor(ground)
    hand_over(board, rotation(root))
    assert (board.record.command_highest, board.record.command_seen, board.record.armed) == (0, 0, ())


@pytest.mark.parametrize("keeps", ["same", "none"])
def test_a_root_that_leaves_a_command_key_in_force_gives_no_counter_back(board, ground, keeps):
    """What was signed by that key, and recorded, could be played again."""
    used_up(board, ground)
    new = replace(ground, root_version=2)
    metadata = new.root_metadata()
    if keeps == "none":
        metadata.signed.unrecognized_fields[COMMAND_FIELD] = {"keyids": [], "threshold": 1}
        metadata.signatures.clear()
        metadata.sign(ground.signers["root"])
    hand_over(board, rotation(metadata.to_bytes(SERIALIZER)))
    assert (board.record.root_version, board.record.command_highest) == (2, 2**63 - 1)


def test_a_lost_root_is_not_replaced_by_another_one_that_revoked_root_keys_signed(board, ground):
    _, root = successor(ground)
    hand_over(board, rotation(root))
    _, other = successor(ground, b"a thief of the first root keys")
    damage(board, 0, 1, 2)
    assert refusal(board, rotation(other)) is Reason.TRUST_LOST
    assert refusal(board, rotation(root, other, label="both")) is None
    damage(board, 0, 1, 2)
    assert refusal(board, rotation(other, root)) is Reason.TRUST_LOST
    assert board.record.root_digest == root_digest(root)


@pytest.mark.parametrize(
    "role", [{"keyids": ["unknown"]}, {"keyids": "all"}, "short key"], ids=["unknown", "no list", "short key"]
)
def test_a_root_whose_command_keys_cannot_be_read_is_refused_before_a_command_finds_out(board, ground, role):
    metadata = replace(ground, root_version=2).root_metadata()
    fields = metadata.signed.unrecognized_fields
    if role == "short key":
        key = SSlibKey("", "ed25519", "ed25519", {"public": "00" * 31})
        key.keyid = key_id_of(key)
        metadata.signed.keys[key.keyid] = key
        role = {"keyids": [key.keyid], "threshold": 1}
    fields[COMMAND_FIELD] = role
    metadata.signatures.clear()
    metadata.sign(ground.signers["root"])
    assert refusal(board, rotation(metadata.to_bytes(SERIALIZER))) is Reason.MALFORMED
    assert board.record.root_version == 1


def test_another_key_under_an_old_id_is_refused_for_people_compare_ids(board, ground):
    metadata = replace(ground, root_version=2).root_metadata()
    stolen = metadata.signed.roles["targets"].keyids[0]
    other = FakeGround(seed=b"thief").signers["targets"].public_key
    metadata.signed.keys[stolen] = SSlibKey(stolen, other.keytype, other.scheme, other.keyval)
    metadata.signatures.clear()
    metadata.sign(ground.signers["root"])
    data = metadata.to_bytes(SERIALIZER)
    assert refusal(board, rotation(data)) is Reason.MALFORMED
    with pytest.raises(DecodeError, match="is not the id of the key"):
        read_root(data)
