"""The classic attacks on parsers, each by name: bombs, keys twice, tensors over one another, names that lead out."""

import json
import struct

import numpy as np
import pytest
import zstandard

from groundsegment.errors import InputError
from groundsegment.models.release import scan_release
from groundsegment.models.safetensors_file import read_header
from protocol.codec import streams
from protocol.codec.kinds import Coder
from protocol.codec.payload import Stream
from protocol.errors import DecodeError
from protocol.limits import METADATA_UNPACKED_MAX
from protocol.manifest import Manifest
from protocol.metadata import MetadataBundle
from protocol.names import is_safe_name
from protocol.objects import PREFIX_SIZE, ObjectKind, object_prefix
from protocol.packing import pack_map, unpack_map
from protocol.segment import SegmentCodec, SegmentRow, expand
from tests.fuzz import good
from tests.vectors import make

ENTRY = {"dtype": "I8", "shape": [4], "data_offsets": [0, 4]}


def safetensors(path, text, data=bytes(8)):
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def model(directory):
    directory.mkdir()
    for name, data in good.MODEL_FILES.items():
        (directory / name).write_bytes(data)
    return directory


def test_a_zstd_bomb_of_a_segment_ends_at_the_raw_size_of_its_row():
    row = SegmentRow(number=1, codec=SegmentCodec.ZSTD, file=0, offset=0, raw_size=1000, stored_size=100)
    bomb = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(50_000_000))
    with pytest.raises(DecodeError, match="more than 1000"):
        expand(row, bomb, None)


@pytest.mark.parametrize("window_log", [24, 27, 30])
def test_a_zstd_window_that_takes_much_memory_is_refused_wherever_one_is_read(window_log):
    """A frame of 20 bytes may ask for a gigabyte."""
    parameters = zstandard.ZstdCompressionParameters.from_level(1, window_log=window_log, write_content_size=False)
    writer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    frame = writer.compress(b"small") + writer.flush()
    assert zstandard.get_frame_parameters(frame).window_size == 1 << window_log
    row = SegmentRow(number=1, codec=SegmentCodec.ZSTD, file=0, offset=0, raw_size=1000, stored_size=100)
    with pytest.raises(DecodeError, match="zstd refused"):
        expand(row, frame, None)
    with pytest.raises(DecodeError, match="zstd refused"):
        streams.decode(Stream(coder=Coder.ZSTD, count=5, data=frame), np.uint8, 5)
    with pytest.raises(DecodeError):
        MetadataBundle.decode(object_prefix(ObjectKind.METADATA, PREFIX_SIZE + len(frame)) + frame)


def test_a_zstd_bomb_of_metadata_is_refused_by_the_size_it_states():
    body = zstandard.ZstdCompressor().compress(bytes(METADATA_UNPACKED_MAX + 1))
    with pytest.raises(DecodeError, match="decompressed bytes"):
        MetadataBundle.decode(object_prefix(ObjectKind.METADATA, PREFIX_SIZE + len(body)) + body)


@pytest.mark.parametrize("deep", [b"\x91" * 5000 + b"\x90", b"\x81\xa1a" * 5000 + b"\x80"])
def test_msgpack_that_nests_deep_is_refused(deep):
    with pytest.raises(DecodeError, match="not valid msgpack"):
        unpack_map(b"\x81\xa1a" + deep, unit="x", size_max=1 << 20)


def test_a_key_twice_in_msgpack_is_refused():
    with pytest.raises(DecodeError, match="twice"):
        unpack_map(b"\x82\xa1a\x01\xa1a\x02", unit="x", size_max=100)


def test_msgpack_that_promises_four_gigabytes_is_refused():
    for head in (b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff"):
        with pytest.raises(DecodeError):
            unpack_map(b"\x81\xa1a" + head, unit="x", size_max=1 << 20)


def test_oversize_msgpack_is_refused_unparsed():
    with pytest.raises(DecodeError, match="at most 100"):
        unpack_map(pack_map({"a": bytes(101)}), unit="x", size_max=100)


def test_a_key_twice_in_a_tensor_file_is_refused(tmp_path):
    entry = json.dumps(ENTRY)
    with pytest.raises(InputError, match="twice"):
        read_header(safetensors(tmp_path / "x", f'{{"a": {entry}, "a": {entry}}}'.encode()))


def test_tensors_over_one_another_are_refused(tmp_path):
    over = {"a": {**ENTRY, "data_offsets": [0, 4]}, "b": {**ENTRY, "data_offsets": [2, 6]}}
    with pytest.raises(InputError, match="starts at"):
        read_header(safetensors(tmp_path / "x", json.dumps(over).encode()))


def test_a_tensor_of_an_unknown_type_is_refused(tmp_path):
    with pytest.raises(InputError, match="unknown type"):
        read_header(safetensors(tmp_path / "x", json.dumps({"a": {**ENTRY, "dtype": "OBJECT"}}).encode()))


def test_a_tensor_header_that_nests_deep_is_refused(tmp_path):
    with pytest.raises(InputError, match="not usable JSON"):
        read_header(safetensors(tmp_path / "x", b'{"a":' + b"[" * 100_000))


def test_a_link_out_of_a_models_directory_is_refused(tmp_path):
    directory = model(tmp_path / "model")
    (tmp_path / "secret").write_bytes(b"{}")
    (directory / "tokenizer_config.json").symlink_to(tmp_path / "secret")
    with pytest.raises(InputError, match="leads out of the directory"):
        scan_release(directory)


@pytest.mark.parametrize(
    "name",
    [
        "", ".", "..", "../x", "a/b", "/x", "a\\b", "..\\x", "C:x", "C:\\x", "\\\\host\\x", "a\0b", "\0", "a\nb",
        "x\u202ey", "e\u0301", "\uff0e\uff0e\uff0fx", "\u2024\u2024", "a b", "~", "a:stream", "x" * 200, "\ud800",
    ],
)  # fmt: skip
def test_a_name_that_leads_out_or_reads_as_another_is_no_name(name):
    assert not is_safe_name(name)


def test_a_manifest_whose_file_is_called_so_is_refused():
    name = make.FILES[0].name.encode()
    data = make.MANIFEST.encode()
    assert Manifest.decode(data).files[0].name.encode() == name
    assert data.count(name) == 1
    with pytest.raises(DecodeError, match="name"):
        Manifest.decode(data.replace(name, b"../" + name[3:]))
