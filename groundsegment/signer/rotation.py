"""The next root: which keys change, who has signed it, and when it counts. Interrupted anywhere, the same call goes on.

    keys/next/root.json     the next root, with the signatures it has so far
    keys/next/NAME.pem      private keys that take the places of old ones, and NAME.public
    keys/next/NAME.away     instead of NAME.pem: the private half is kept elsewhere

`prepare` makes it, `sign_here` signs with the root keys that are here, `take_signatures` brings those that were made
elsewhere, `commit` puts it in force once a satellite would follow it: first `roots/N.json` is durable, then the new
keys are in their places, then root.json is replaced; `commit` again finishes what was interrupted. `drop` comes last,
when all that follows from it is done and told: so whoever was interrupted still finds what it was about. Without
next/root.json nothing else in next/ counts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from tuf.api.metadata import Metadata, Root
from tuf.api.serialization import DeserializationError

from groundsegment.errors import KeyStoreError
from groundsegment.signer.files import replace_durably, sync_directory, write_new
from groundsegment.signer.key_entry import KeyEntry, write_entry
from groundsegment.signer.key_store import KNOWN_NAMES, ONLINE_NAMES, POST_QUANTUM_NAMES, ROOT_NAMES, KeyStore, make_key
from groundsegment.signer.roots import COMPACT, add_signature, check_root, next_root, num_signed, role_keyids, role_of
from protocol.roots import read_root


@dataclass(frozen=True, slots=True, kw_only=True)
class NextRoot:
    """The next root as it stands.

    Attributes:
        metadata: parsed.
        data: its bytes with the signatures so far.
        changes: names of keys that are replaced by it.
        begins_epoch: whether the counters start again with it.
        is_in_force: it is the trust root by now; whoever put it in force did not get to the end.
        missing: what is missing, for people; empty if a satellite would follow it.
    """

    metadata: Metadata[Root]
    data: bytes
    changes: tuple[str, ...]
    begins_epoch: bool
    is_in_force: bool
    missing: tuple[str, ...]

    @property
    def version(self) -> int:
        """Its number."""
        return self.metadata.signed.version


def prepare(
    store: KeyStore,
    names: Sequence[str],
    *,
    is_leaked: bool,
    floor: int,
    utc: datetime,
    entries: Mapping[str, KeyEntry] | None = None,
) -> NextRoot:
    """Make the next root, in which keys are replaced; it is not signed yet.

    Args:
        store: with the trust root.
        names: of the keys.
        is_leaked: somebody else may have one of them: if it signs updates, a new epoch begins.
        floor: that a new epoch begins with.
        utc: now.
        entries: public keys that were made elsewhere, by name; the others are made here.

    Raises:
        KeyStoreError: another next root is on its way, or a name is not one.
    """
    current, waiting = store.root(), pending(store)
    if waiting is not None and not waiting.is_in_force:
        hint = "the command that began it goes on if it is given again; or `skyload keys root drop`, and this one again"
        raise KeyStoreError(f"{store.next_path}: a next root is being made already", hint=hint)
    entries = entries or {}
    unknown = [name for name in names if name not in KNOWN_NAMES]
    if unknown or not names:
        raise KeyStoreError(f"no key is called {', '.join(unknown)}", hint=f"one of {', '.join(KNOWN_NAMES)}")
    old = {name: store.public_key(name) for name in names if name not in POST_QUANTUM_NAMES or store.entry(name)}
    for name, key in old.items():
        if name in entries and entries[name].key.keyid == key.keyid:
            raise KeyStoreError(f"{name}: that key has this place already", hint="give the new key's public half")
    if len(entries) < len(names):
        _check_passphrase(store)
    drop(store)  # what an interruption left before there was a root counts for nothing
    store.next_path.mkdir(mode=0o700)
    try:
        new = {name: _new_entry(store, name, entries.get(name)).key for name in names}
        epoch = begins_epoch(names, is_leaked=is_leaked)
        metadata = next_root(current, old=old, new=new, begins_epoch=epoch, floor=floor, utc=utc)
        write_new(store.next_path / "root.json", metadata.to_bytes(COMPACT), mode=0o644)
    except BaseException:
        drop(store)
        raise
    return _standing(store, metadata)


def begins_epoch(names: Sequence[str], *, is_leaked: bool) -> bool:
    """Whether the counters start again when keys are replaced."""
    return is_leaked and any(name in ONLINE_NAMES for name in names)


def is_same(
    store: KeyStore,
    next_: NextRoot,
    names: Sequence[str],
    *,
    is_leaked: bool,
    floor: int,
    entries: Mapping[str, KeyEntry] | None = None,
) -> bool:
    """Whether `prepare` was called with these arguments for a next root."""
    known = read_root(next_.data)
    if set(next_.changes) != set(names):
        return False
    if next_.begins_epoch != begins_epoch(names, is_leaked=is_leaked) or (next_.begins_epoch and known.floor != floor):
        return False
    places = (KeyStore(store.next_path), store)  # or moved in
    given = {
        path.stem: next(filter(None, (place.entry(path.stem) for place in places)), None)
        for path in store.next_path.glob("*.away")
    }
    return given == dict(entries or {})


def pending(store: KeyStore) -> NextRoot | None:
    """The next root that is being made, None if there is none."""
    data = _read_next(store)
    return None if data is None else _standing(store, _parse(data, store.next_path / "root.json"))


def sign_here(store: KeyStore) -> NextRoot:
    """Sign the next root with all root keys that are here, old and new.

    Raises:
        KeyStoreError: there is no next root, or a key does not open.
    """
    metadata = _must_be_pending(store).metadata
    for name in (*ROOT_NAMES, *POST_QUANTUM_NAMES):
        for place in (store, KeyStore(store.next_path, store.passphrase)):
            if place.can_sign(name):
                signer = place.signer(name)
                if signer.public_key.keyid not in metadata.signatures:
                    add_signature(metadata, signer)
    return _keep(store, metadata)


def take_signatures(store: KeyStore, data: bytes, source: Path) -> NextRoot:
    """Add the signatures of a copy of the next root that was signed elsewhere.

    Raises:
        KeyStoreError: it is another root.
    """
    metadata, other = _must_be_pending(store).metadata, _parse(data, source)
    if other.signed_bytes != metadata.signed_bytes:
        hint = "bring back the file that `skyload keys root prepare` wrote for this root"
        raise KeyStoreError(f"{source}: not the root that was prepared here", hint=hint)
    metadata.signatures.update(other.signatures)
    return _keep(store, metadata)


def commit(store: KeyStore) -> NextRoot | None:
    """Put the next root in force; None if there is none. Finishes what an interruption left; `drop` is left to do.

    Raises:
        KeyStoreError: it lacks signatures.
    """
    next_ = pending(store)
    if next_ is None:
        return None
    if next_.is_in_force:
        return next_
    current = store.root()
    check_root(next_.data, current)
    store.roots_path.mkdir(exist_ok=True)
    _keep_version(store, current)
    _keep_version(store, next_.data)
    for name in next_.changes:
        _move_in(store, name)
    replace_durably(store.root_path, next_.data, mode=0o644)
    return next_


def check_droppable(store: KeyStore, next_: NextRoot) -> None:
    """Make sure that a next root may be forgotten as if it had never been begun.

    Raises:
        KeyStoreError: some of its keys may be in their places already.
    """
    if not next_.is_in_force and (store.roots_path / f"{next_.version}.json").exists():
        hint = "give the command again that was interrupted: it goes on; later replace what should not have been"
        raise KeyStoreError(f"root {next_.version}: was being put in force already", hint=hint)


def drop(store: KeyStore) -> None:
    """Forget the next root and its keys; once it is in force, that there is something left to do."""
    (store.next_path / "root.json").unlink(missing_ok=True)
    if store.next_path.exists():
        for path in store.next_path.iterdir():
            path.unlink()
        store.next_path.rmdir()
        sync_directory(store.path)


def keep_first(store: KeyStore, data: bytes) -> None:
    """Write the first root down, under its number too."""
    store.roots_path.mkdir(exist_ok=True)
    _keep_version(store, data)
    write_new(store.root_path, data, mode=0o644)


def _new_entry(store: KeyStore, name: str, given: KeyEntry | None) -> KeyEntry:
    path = store.next_path / f"{name}.pem"
    if given is None:
        return make_key(path, store.passphrase, is_post_quantum=name in POST_QUANTUM_NAMES)
    write_new(path.with_suffix(".away"), b"", mode=0o644)
    write_entry(path.with_suffix(".public"), given)
    return given


def _check_passphrase(store: KeyStore) -> None:
    """Where a key is sealed, make sure that new ones will be, and under the same words.

    Raises:
        KeyStoreError: the passphrase is another one, or nobody gives any.
    """
    sealed = next((name for name in KNOWN_NAMES if store.is_sealed(name)), None)
    if sealed is not None:
        store.signer(sealed)


def _move_in(store: KeyStore, name: str) -> None:
    """Put a new key in the place of the old one: first the private one, so that no public one lacks it."""
    public = store.next_path / f"{name}.public"
    if not public.exists():
        return  # it was moved before an interruption
    private, target = store.next_path / f"{name}.pem", store.path / f"{name}.pem"
    if private.exists():
        private.replace(target)
    elif public.with_suffix(".away").exists():
        target.unlink(missing_ok=True)
    public.replace(store.path / f"{name}.public")
    sync_directory(store.path)


def _keep_version(store: KeyStore, data: bytes) -> None:
    path = store.roots_path / f"{read_root(data).version}.json"
    if not path.exists():
        write_new(path, data, mode=0o644)


def _keep(store: KeyStore, metadata: Metadata[Root]) -> NextRoot:
    replace_durably(store.next_path / "root.json", metadata.to_bytes(COMPACT), mode=0o644)
    return _standing(store, metadata)


def _must_be_pending(store: KeyStore) -> NextRoot:
    next_ = pending(store)
    if next_ is None:
        hint = "`skyload keys rotate` or `skyload keys revoke` makes one"
        raise KeyStoreError(f"{store.path}: no next root is being made", hint=hint)
    return next_


def _read_next(store: KeyStore) -> bytes | None:
    try:
        return (store.next_path / "root.json").read_bytes()
    except FileNotFoundError:
        return None


def _parse(data: bytes, path: Path) -> Metadata[Root]:
    hint = "write it anew with `skyload keys root prepare`"
    try:
        metadata: Metadata[Any] = Metadata.from_bytes(data)
    except DeserializationError:
        raise KeyStoreError(f"{path}: not a root", hint=hint) from None
    if not isinstance(metadata.signed, Root):
        raise KeyStoreError(f"{path}: not a root", hint=hint)
    return metadata


def _standing(store: KeyStore, metadata: Metadata[Root]) -> NextRoot:
    current = read_root(store.root())
    is_in_force = metadata.signed.version <= current.version
    if is_in_force:  # what it changed shows beside the one before
        current = read_root((store.roots_path / f"{metadata.signed.version - 1}.json").read_bytes())
    data: bytes = metadata.to_bytes(COMPACT)
    missing = [
        f"{threshold - signed} more of the {whose} {role} keys"
        for whose, judge in (("old", current.root), ("new", metadata.signed))
        for role, (signed, threshold) in num_signed(metadata, judge).items()
        if signed < threshold
    ]
    old_ids, new_ids = role_keyids(current.root), role_keyids(metadata.signed)
    new_keys = {name: KeyStore(store.next_path).entry(name) or store.entry(name) for name in KNOWN_NAMES}  # or moved in
    changes = [
        name
        for name, entry in new_keys.items()
        if entry is not None and entry.key.keyid in set(new_ids[role_of(name)]) - set(old_ids[role_of(name)])
    ]
    return NextRoot(
        metadata=metadata,
        data=data,
        changes=tuple(changes),
        begins_epoch=read_root(data).epoch > current.epoch,
        is_in_force=is_in_force,
        missing=tuple(missing),
    )
