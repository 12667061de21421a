"""The ground's roots: the first one, and one that follows another. Built and checked here, signed in `rotation`.

Built with python-tuf, and never trusted for that: `protocol.roots` judges what comes out, as a satellite will.
"""

import copy
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from securesystemslib.signer import Key, Signer, SSlibKey
from tuf.api.exceptions import UnsignedMetadataError
from tuf.api.metadata import Metadata, Root
from tuf.api.serialization.json import JSONSerializer

from groundsegment.errors import KeyStoreError
from groundsegment.signer.key_store import COMMAND_NAME, ONLINE_NAMES, POST_QUANTUM_NAMES, ROOT_NAMES
from protocol.errors import ProtocolError
from protocol.roots import (
    COMMAND_FIELD,
    EPOCH_FIELD,
    POST_QUANTUM_FIELD,
    SIGNED_AT_FIELD,
    command_keys,
    follow_roots,
    read_root,
    second_root_role,
    verify_root,
)

ROOT_THRESHOLD = 2
POST_QUANTUM_THRESHOLD = 1
# Judged only where the clock is trusted, and a satellite may be out of reach for long: outlive it.
ROOT_EXPIRY = timedelta(days=3650)
COMPACT = JSONSerializer(compact=True)


def first_root(keys: Mapping[str, SSlibKey], *, utc: datetime) -> Metadata[Root]:
    """Return the first root, unsigned; hybrid if there are post-quantum keys.

    Raises:
        KeyStoreError: a key has two places.
    """
    root = Root(expires=whole_seconds(utc + ROOT_EXPIRY), consistent_snapshot=False)
    for name in ROOT_NAMES:
        root.add_key(keys[name], Root.type)
    root.roles[Root.type].threshold = ROOT_THRESHOLD
    for name in ONLINE_NAMES:
        root.add_key(keys[name], name)
    command = keys[COMMAND_NAME]
    root.keys[command.keyid] = command
    root.unrecognized_fields[COMMAND_FIELD] = {"keyids": [command.keyid], "threshold": 1}
    for name in POST_QUANTUM_NAMES:
        if name in keys:
            _add_post_quantum(root, keys[name])
    root.unrecognized_fields[SIGNED_AT_FIELD] = int(utc.timestamp())
    check_one_place_each(keys, _all_keyids(root))
    return Metadata(root)


def next_root(
    current: bytes,
    *,
    old: Mapping[str, SSlibKey],
    new: Mapping[str, SSlibKey],
    begins_epoch: bool,
    floor: int,
    utc: datetime,
) -> Metadata[Root]:
    """Return the root that follows one, unsigned.

    Args:
        current: the trust root.
        old: by name, the keys that it names and the next one does not.
        new: by name, the keys in their places; one without an old one is added.
        begins_epoch: counters start again, see `protocol.trust`.
        floor: that the new epoch begins with.
        utc: now.

    Raises:
        KeyStoreError: a new key has two places.
    """
    known = read_root(current)
    root: Root = copy.deepcopy(known.root)
    root.version += 1
    root.expires = whole_seconds(utc + ROOT_EXPIRY)
    root.unrecognized_fields[SIGNED_AT_FIELD] = max(int(utc.timestamp()), known.signed_at)
    if begins_epoch:
        root.unrecognized_fields[EPOCH_FIELD] = {"number": known.epoch + 1, "floor": floor}
    for name, key in new.items():
        if name in POST_QUANTUM_NAMES and name not in old:
            _add_post_quantum(root, key)
        else:
            _swap(root, name, old[name].keyid, key)
    check_one_place_each(new, _all_keyids(root))
    return Metadata(root)


def role_keyids(root: Root) -> dict[str, list[str]]:
    """The key ids of every role, ours included; `root-pq` for the second root role."""
    second = second_root_role(root)
    command = root.unrecognized_fields.get(COMMAND_FIELD)
    return {
        **{name: list(role.keyids) for name, role in root.roles.items()},
        "root-pq": list(second.keyids) if second else [],
        "command": list(command.get("keyids", [])) if isinstance(command, dict) else [],
    }


def role_of(name: str) -> str:
    """The role that a key of that name has."""
    if name in ROOT_NAMES:
        return "root"
    return "root-pq" if name in POST_QUANTUM_NAMES else name


def check_one_place_each(keys: Mapping[str, Key], places: Sequence[str]) -> None:
    """Make sure that none of some keys has two places.

    A command key that signs updates too lets its thief install; two root keys that are one are a threshold of one.

    Args:
        keys: by name.
        places: the key ids of all places.

    Raises:
        KeyStoreError: one has.
    """
    for name, key in keys.items():
        if places.count(key.keyid) > 1:
            hint = "one key for each place: make another for this one (`skyload keys make`, or in the agent or token)"
            raise KeyStoreError(f"{name}: key {key.keyid[:16]} has another place already", hint=hint)


def add_signature(metadata: Metadata[Any], signer: Signer) -> None:
    """Add a signature.

    Raises:
        KeyStoreError: whatever signs would not.
    """
    try:
        metadata.sign(signer, append=True)
    except UnsignedMetadataError as error:
        if isinstance(error.__cause__, KeyStoreError):
            raise error.__cause__ from None
        raise KeyStoreError(str(error), hint="`skyload keys list` shows where each key is") from error


def check_root(data: bytes, current: bytes | None) -> None:
    """Make sure that a satellite with the current root follows a new one; without one, that it judges itself good.

    Raises:
        KeyStoreError: it would not.
    """
    try:
        if current is not None:
            follow_roots([data], current)
        metadata: Metadata[Any] = Metadata.from_bytes(data)
        verify_root(metadata.signed, metadata)
        command_keys(data)
    except ProtocolError as error:
        hint = "sign it with more root keys: `skyload keys root status` tells which"
        raise KeyStoreError(f"a satellite would not follow this root: {error}", hint=hint) from error


def num_signed(metadata: Metadata[Root], judge: Root) -> dict[str, tuple[int, int]]:
    """How many good signatures a root has and how many a judge asks for, by root role."""
    roles = {"root": judge.roles[Root.type]}
    second = second_root_role(judge)
    if second is not None:
        roles["root-pq"] = second
    result = {}
    for name, role in roles.items():
        view = Root(
            version=judge.version, expires=judge.expires, keys=judge.keys, roles={**judge.roles, Root.type: role}
        )
        found = view.get_verification_result(Root.type, metadata.signed_bytes, metadata.signatures)
        result[name] = len(found.signed), role.threshold
    return result


def whole_seconds(utc: datetime) -> datetime:
    """TUF 1.0.34, 4.2: no fractions."""
    return utc.replace(microsecond=0)


def _all_keyids(root: Root) -> list[str]:
    return [keyid for each in role_keyids(root).values() for keyid in each]


def _add_post_quantum(root: Root, key: SSlibKey) -> None:
    role = root.unrecognized_fields.setdefault(POST_QUANTUM_FIELD, {"keyids": [], "threshold": POST_QUANTUM_THRESHOLD})
    role["keyids"].append(key.keyid)
    root.keys[key.keyid] = key


def _swap(root: Root, name: str, old_id: str, key: SSlibKey) -> None:
    role = role_of(name)
    if role in root.roles:
        ids = root.roles[role].keyids
    else:
        ids = root.unrecognized_fields[COMMAND_FIELD if role == "command" else POST_QUANTUM_FIELD]["keyids"]
    ids[ids.index(old_id)] = key.keyid
    root.keys[key.keyid] = key
    if not any(old_id in ids for ids in role_keyids(root).values()):
        del root.keys[old_id]
