"""What it would cost to try a passphrase on a sealed key file: asked before anybody tries. Pure.

A key file says itself how often, or with how much memory, the passphrase is to be hashed, so a file of 200 bytes from a
stick could take all memory there is, or a day. Refused is what nobody needs: scrypt above 64 MiB or 16 rounds, PBKDF2
above two million. What is not DER at all is left to whoever opens the key.
"""

_SCRYPT = bytes.fromhex("2b06010401da47040b")
_INTEGER, _OBJECT, _SEQUENCE = 0x02, 0x06, 0x30
_SCRYPT_BYTES_MAX = 64 << 20
_SCRYPT_ROUNDS_MAX = 16
_COUNT_MAX = 2_000_000
_DEPTH_MAX = 8


def is_affordable(der: bytes) -> bool:
    """Whether a sealed key (EncryptedPrivateKeyInfo, RFC 5958) asks for no more than a sane one."""
    try:
        algorithm = _first(der)
        found = list(_parts(algorithm, 0))
    except (IndexError, ValueError):
        return True  # not DER: there is nothing to be paid
    numbers = [int.from_bytes(content, "big") for tag, content in found if tag == _INTEGER]
    if (_OBJECT, _SCRYPT) in found:
        cost, block, rounds = (*numbers, 0, 0, 0)[:3]
        is_cost = cost > 1 and cost & (cost - 1) == 0
        return is_cost and 128 * cost * block <= _SCRYPT_BYTES_MAX and 0 < rounds <= _SCRYPT_ROUNDS_MAX
    return all(number <= _COUNT_MAX for number in numbers)


def _first(der: bytes) -> bytes:
    """The algorithm: the first thing in the sequence that a sealed key is."""
    outer, _ = _element(der, 0)
    return _element(outer[1], 0)[0][1]


def _parts(content: bytes, depth: int) -> list[tuple[int, bytes]]:
    found, at = [], 0
    while at < len(content):
        (tag, inner), at = _element(content, at)
        found += _parts(inner, depth + 1) if tag == _SEQUENCE and depth < _DEPTH_MAX else [(tag, inner)]
    return found


def _element(data: bytes, at: int) -> tuple[tuple[int, bytes], int]:
    tag, size, at = data[at], data[at + 1], at + 2
    if size >= 0x80:
        num_bytes = size & 0x7F
        if not 1 <= num_bytes <= 4:
            raise ValueError("not DER")
        size, at = int.from_bytes(data[at : at + num_bytes], "big"), at + num_bytes
    if at + size > len(data):
        raise ValueError("not DER")
    return (tag, data[at : at + size]), at + size
