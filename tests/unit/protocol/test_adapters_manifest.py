"""A manifest says that an adapter flies, and nothing that does not go together; one of a model says nothing of it."""

from dataclasses import replace

import pytest

from protocol.adapters import base_note
from protocol.adapters.errors import AdapterError
from protocol.errors import DecodeError
from protocol.manifest import AdapterEntry, AdapterUse, Manifest, SizedFile
from protocol.packing import pack_map, unpack_map

BASE = bytes(range(32))


def files_of(*names):
    return tuple(SizedFile(name=name, size_bytes=3) for name in names)


ADAPTER_FILES = files_of("adapter_config.json", "adapter_model.safetensors")
NOTED = files_of("adapter_config.json", "adapter_model.safetensors", "skyload_adapter.json")
MODEL = files_of("config.json", "model.safetensors")
TO_MERGE = AdapterEntry(use=AdapterUse.MERGE, files=ADAPTER_FILES, digest=BASE)


def manifest(files, adapter, **changes):
    whole = Manifest(
        sequence=1,
        satellites=("S",),
        release_name="lora",
        release_digest=bytes(32),
        files=files,
        base=BASE,
        bundles=(),
        keys={},
        adapter=adapter,
    )
    return replace(whole, **changes)


MERGED = manifest(MODEL, TO_MERGE)
BESIDE = manifest(NOTED, AdapterEntry(use=AdapterUse.BESIDE))


@pytest.mark.parametrize("whole", [MERGED, BESIDE, manifest(MODEL, None)])
def test_it_decodes_to_what_was_encoded(whole):
    assert Manifest.decode(whole.encode()) == whole


def test_bundles_carry_the_adapter_or_the_release():
    assert MERGED.carried_files == ADAPTER_FILES
    assert BESIDE.carried_files == NOTED
    assert manifest(MODEL, None).carried_files == MODEL


def test_a_manifest_without_an_adapter_has_no_word_of_it():
    assert "adapter" not in unpack_map(manifest(MODEL, None).encode(), unit="m", size_max=10_000)


@pytest.mark.parametrize(
    "whole",
    [
        replace(MERGED, base=None),
        replace(BESIDE, base=None),
        replace(MERGED, engine_format="gguf"),
        manifest(MODEL, AdapterEntry(use=AdapterUse.MERGE)),
        manifest(MODEL, replace(TO_MERGE, digest=None)),
        manifest(MODEL, replace(TO_MERGE, files=NOTED)),
        manifest(MODEL, replace(TO_MERGE, files=ADAPTER_FILES[::-1])),
        manifest(MODEL, replace(TO_MERGE, files=ADAPTER_FILES[:1] * 2)),
        manifest(MODEL, AdapterEntry(use=AdapterUse.BESIDE)),
        manifest(ADAPTER_FILES, AdapterEntry(use=AdapterUse.BESIDE)),
        manifest(NOTED, replace(TO_MERGE, use=AdapterUse.BESIDE)),
        manifest(NOTED, AdapterEntry(use=AdapterUse.BESIDE, digest=BASE)),
    ],
)
def test_what_does_not_go_together_is_refused(whole):
    with pytest.raises(DecodeError):
        whole.encode()


@pytest.mark.parametrize(
    "adapter",
    [
        None,
        {},
        {"how": "merge", "rule": 2, "files": [], "digest": None},
        {"how": "other", "rule": 1, "files": [], "digest": None},
        {"how": "beside", "rule": 1, "files": [], "digest": None, "more": 1},
        {"how": "beside", "rule": 1, "digest": None},
        {"how": "beside", "rule": 1, "files": []},
        {"how": "beside", "rule": 1, "files": [[1]], "digest": None},
        {"how": "beside", "rule": 1, "files": [], "digest": b"short"},
    ],
)
def test_another_rule_and_other_words_are_refused(adapter):
    fields = unpack_map(BESIDE.encode(), unit="m", size_max=10_000)
    with pytest.raises(DecodeError):
        Manifest.decode(pack_map(fields | {"adapter": adapter}))


def test_a_note_names_its_base_in_one_way_only():
    note = base_note.encode(BASE)
    assert base_note.decode(note) == BASE
    for damaged in (note[:-1], note + b" ", note.upper(), b"{}", b"\xff", b"[" * 300, base_note.encode(BASE[:31])):
        with pytest.raises(AdapterError):
            base_note.decode(damaged)
