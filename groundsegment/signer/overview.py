"""What the keys and the trust root look like, for people and scripts. No private key is opened."""

from dataclasses import dataclass
from typing import Any, Self

from groundsegment.signer.key_entry import KeyEntry
from groundsegment.signer.key_store import KNOWN_NAMES, POST_QUANTUM_NAMES, KeyStore
from groundsegment.signer.roots import role_keyids
from groundsegment.signer.rotation import pending
from protocol.roots import COMMAND_FIELD, POST_QUANTUM_FIELD, read_root


@dataclass(frozen=True, slots=True, kw_only=True)
class RootStanding:
    """Which root is trusted somewhere.

    Attributes:
        version: of it.
        epoch: that it began, or goes on with.
    """

    version: int
    epoch: int

    @classmethod
    def of(cls, store: KeyStore, version: int | None = None) -> Self:
        """The root in force at home, or an older one.

        Raises:
            KeyStoreError: it is missing.
        """
        root = read_root(store.root() if version is None else store.version(version))
        return cls(version=root.version, epoch=root.epoch)

    def as_json(self) -> dict[str, int]:
        """For scripts."""
        return {"root_version": self.version, "epoch": self.epoch}


def keys_overview(store: KeyStore) -> list[dict[str, Any]]:
    """Each key: what it is, whether the trust root names it, and where its private half is."""
    current = read_root(store.root()).root
    ids = {keyid for keyids in role_keyids(current).values() for keyid in keyids}
    return [_key(store, name, ids) for name in KNOWN_NAMES if name not in POST_QUANTUM_NAMES or store.entry(name)]


def _key(store: KeyStore, name: str, ids: set[str]) -> dict[str, Any]:
    entry = store.entry(name)
    if entry is None and store.has(name) and not store.is_sealed(name):
        entry = KeyEntry(key=store.public_key(name))  # an older depot wrote no public halves down
    where = "not here"
    if entry is not None and entry.uri is not None:
        where = entry.uri
    elif store.has(name):
        where = "here, sealed" if store.is_sealed(name) else "here"
    return {
        "name": name,
        "key_id": entry.key.keyid if entry and where != "not here" else None,
        "public_key_id": entry.key.keyid if entry else None,
        "scheme": entry.key.scheme if entry else None,
        "is_trusted": entry is not None and entry.key.keyid in ids,
        "where": where,
    }


def root_overview(store: KeyStore) -> dict[str, Any]:
    """The trust root, its roles with thresholds, and the next root."""
    current = read_root(store.root())
    names = {entry.key.keyid: name for name in KNOWN_NAMES if (entry := store.entry(name)) is not None}
    thresholds = {name: role.threshold for name, role in current.root.roles.items()}
    for role, field in (("command", COMMAND_FIELD), ("root-pq", POST_QUANTUM_FIELD)):
        thresholds[role] = current.root.unrecognized_fields.get(field, {}).get("threshold", 1)
    roles = [
        {
            "role": role,
            "threshold": thresholds[role],
            "keys": [
                {"name": names.get(keyid), "key_id": keyid, "scheme": current.root.keys[keyid].scheme}
                for keyid in keyids
            ],
        }
        for role, keyids in role_keyids(current.root).items()
        if keyids
    ]
    next_ = pending(store)
    return {
        "version": current.version,
        "epoch": current.epoch,
        "floor": current.floor,
        "expires": current.root.expires.isoformat(),
        "roles": roles,
        "next": None
        if next_ is None or next_.is_in_force
        else {
            "version": next_.version,
            "changes": list(next_.changes),
            "begins_epoch": next_.begins_epoch,
            "missing": list(next_.missing),
        },
    }
