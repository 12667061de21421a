"""A manifest says of files their names and sizes, and is refused whole if one of them is not as it has to be."""

import pytest

from protocol.errors import DecodeError
from protocol.limits import (
    BUNDLES_MAX,
    FILES_MAX,
    MANIFEST_SIZE_MAX,
    OBJECT_SIZE_MAX,
    PROMPT_SIZE_MAX,
    SEGMENTS_PER_BUNDLE_MAX,
)
from protocol.manifest import Manifest
from protocol.packing import pack_map, unpack_map
from tests.fakes.updates import FakeGround

WHOLE = unpack_map(
    FakeGround().make_update({"a.json": b"{}", "b.bin": b"weights"}).manifest.encode(),
    unit="manifest",
    size_max=MANIFEST_SIZE_MAX,
)


def of_files(*rows):
    return pack_map({**WHOLE, "release": {**WHOLE["release"], "files": list(rows)}})


def asking(text):
    return pack_map({**WHOLE, "canary": {**WHOLE["canary"], "prompts": [[text, b""]]}})


def test_it_says_names_and_sizes():
    files = Manifest.decode(of_files(["A", 0], ["a", 2**47])).files
    assert [(file.name, file.size_bytes) for file in files] == [("A", 0), ("a", 2**47)]
    many = [[f"{number:04}", 1] for number in range(FILES_MAX)]
    assert len(Manifest.decode(of_files(*many)).files) == FILES_MAX


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [["b", 1], ["a", 1]],
        [["a", 1], ["a", 1]],
        [["a", 1], ["a", 2]],
        [["a", -1]],
        [["a", 2**47 + 1]],
        [["a", True]],
        [["a", 1.0]],
        [["a"]],
        [["a", 1, bytes(32)]],
        [["", 1]],
        [[".hidden", 1]],
        [["..", 1]],
        [["a/b", 1]],
        [["ä", 1]],
        [["a\n", 1]],
        [["a" * 129, 1]],
        [[b"a", 1]],
        ["a"],
        [[f"{number:04}", 1] for number in range(FILES_MAX + 1)],
    ],
)
def test_files_that_no_release_can_have_are_refused(rows):
    with pytest.raises(DecodeError):
        Manifest.decode(of_files(*rows))


def test_a_question_has_its_bounds():
    assert Manifest.decode(asking("?" * PROMPT_SIZE_MAX)).canary.prompts[0].text
    with pytest.raises(DecodeError, match="at most 16384"):
        Manifest.decode(asking("?" * (PROMPT_SIZE_MAX + 1)))


@pytest.mark.parametrize("digest", [None, b"", bytes(31), bytes(33), "0" * 64])
def test_a_release_has_a_digest(digest):
    with pytest.raises(DecodeError, match="digest"):
        Manifest.decode(pack_map({**WHOLE, "release": {**WHOLE["release"], "digest": digest}}))


BUNDLE = [1, bytes(16), 1]


@pytest.mark.parametrize(
    "change",
    [
        {"v": 2},
        {"sequence": 0},
        {"sequence": 2**32},
        {"satellites": ["a/b"]},
        {"satellites": ["SAT-1"] * 4097},
        {"base": bytes(31)},
        {"bundles": [BUNDLE] * (BUNDLES_MAX + 1)},
        {"bundles": [[0, bytes(16), 1]]},
        {"bundles": [[OBJECT_SIZE_MAX + 1, bytes(16), 1]]},
        {"bundles": [[1, bytes(15), 1]]},
        {"bundles": [[1, bytes(32), 1]]},
        {"bundles": [[1, bytes(16), 0]]},
        {"bundles": [[1, bytes(16), SEGMENTS_PER_BUNDLE_MAX + 1]]},
        {"keys": {"SAT-9": b""}},
        {"keys": {"SAT-1": bytes(2049)}},
        {"floor": 2},
        {"floor": -1},
        {"beside": 1},
        {"hold": 1},
        {"engine": {"format": "other", "memory_bytes": 0}},
        {"engine": {"format": "gguf", "memory_bytes": -1}},
        {"engine": {"format": "gguf", "memory_bytes": 0, "more": 1}},
        {"release": {**WHOLE["release"], "name": "a/b"}},
        {"release": {**WHOLE["release"], "more": 1}},
        {"more": 1},
    ],
)
def test_what_cannot_be_meant_is_refused(change):
    assert (WHOLE["sequence"], WHOLE["satellites"]) == (1, ["SAT-1"])
    with pytest.raises(DecodeError):
        Manifest.decode(pack_map({**WHOLE, **change}))


def test_bundles_have_their_bounds():
    largest = [OBJECT_SIZE_MAX, bytes(16), SEGMENTS_PER_BUNDLE_MAX]
    assert len(Manifest.decode(pack_map({**WHOLE, "bundles": [BUNDLE] * BUNDLES_MAX})).bundles) == BUNDLES_MAX
    assert Manifest.decode(pack_map({**WHOLE, "bundles": [largest]})).payload_bytes == OBJECT_SIZE_MAX


@pytest.mark.parametrize("name", sorted(WHOLE))
def test_what_is_not_there_is_missed(name):
    with pytest.raises(DecodeError, match="no field"):
        Manifest.decode(pack_map({key: value for key, value in WHOLE.items() if key != name}))
