"""A sealed key file that would take all memory, or a day, to try a passphrase on is refused before anybody tries."""

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from groundsegment.errors import KeyStoreError
from groundsegment.signer import key_file
from groundsegment.signer.key_costs import is_affordable
from groundsegment.signer.key_file import read_key, write_key

COSTS = bytes.fromhex("02024000020108020105")  # N 16384, r 8, p 5


class Known:
    """Whoever is asked knows the passphrase."""

    def for_new_key(self):
        return b"words"

    def for_key(self, _path):
        return b"words"

    def forget(self):
        pass


def sealed(tmp_path, costs=COSTS):
    path = tmp_path / "key.pem"
    write_key(path, Ed25519PrivateKey.generate(), Known())
    der = key_file.binascii.a2b_base64(b"".join(path.read_bytes().splitlines()[1:-1]))
    at = der.index(COSTS)
    assert len(costs) == len(COSTS)
    path.write_bytes(key_file._pem(b"ENCRYPTED PRIVATE KEY", der[:at] + costs + der[at + len(COSTS) :]))
    return path


def test_a_key_as_we_write_it_opens(tmp_path):
    assert isinstance(read_key(sealed(tmp_path), Known()), Ed25519PrivateKey)


@pytest.mark.parametrize(
    "costs",
    [
        "02024000020108020179",  # 121 rounds
        "0202400002017f020105",  # 254 MiB
        "02024001020108020105",  # not a power of two
        "02024000020108020100",  # no round
    ],
)
def test_a_key_that_asks_for_too_much_is_refused_before_it_is_tried(tmp_path, monkeypatch, costs):
    path = sealed(tmp_path, bytes.fromhex(costs))
    monkeypatch.setattr(key_file.serialization, "load_pem_private_key", lambda *_, **__: pytest.fail("it was tried"))
    with pytest.raises(KeyStoreError, match="too much"):
        read_key(path, Known())


def test_pbkdf2_has_a_limit_too():
    from_openssl = bytes.fromhex("301f 301b 06092a864886f70d01050c 300e 0408 0011223344556677 0202 0800 0400")
    assert is_affordable(from_openssl)
    assert not is_affordable(
        bytes.fromhex("3021 301d 06092a864886f70d01050c 3010 0408 0011223344556677 0204 7fffffff 0400")
    )


@pytest.mark.parametrize("rubbish", [b"", b"\x30", b"\x30\x84\xff\xff\xff\xff", b"\x30\x80", bytes(40)])
def test_what_is_no_der_is_left_to_whoever_opens_it(rubbish):
    assert is_affordable(rubbish)
