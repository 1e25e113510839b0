"""The on-disk layout: sizes, places and constants that may never change within a version."""

from __future__ import annotations

import numpy as np
import pytest

from storage import layout

LAYOUTS = {
    "HEADER": (
        256,
        "magic 0 flags 12 point_count 16 granule_bytes 28 zero_from_bytes 40 chain_id 48 digest 224",
    ),
    "POINT": (64, "id 0 capture_id 16 time_us 32 volume_bytes 40 number 48"),
    "RECORD": (64, "block 0 origin 4 offset 8 length 16 flags 20 mask_lo 24 mask_hi 32 digest 40"),
    "PAGE": (40, "digest 0 first_block 32 last_block 36"),
    "TRAILER": (224, "magic 0 file_bytes 80 reserved 88 header_digest 96 segment_table_digest 160 root 192"),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_structures_stay_where_they_are(name):
    size, places = LAYOUTS[name]
    dtype: np.dtype = getattr(layout, name)
    assert dtype.itemsize == size
    words = places.split()
    for field, offset in zip(words[::2], words[1::2], strict=True):
        assert dtype.fields[field][1] == int(offset), field


@pytest.mark.parametrize("name", LAYOUTS)
def test_structures_have_no_holes_and_are_little_endian(name):
    dtype: np.dtype = getattr(layout, name)
    at = 0
    for kind, offset in dtype.fields.values():
        assert offset == at
        at += kind.itemsize
        assert kind.base.byteorder != ">"
        assert kind.base.isnative
    assert at == dtype.itemsize


def test_constants():
    assert layout.HEADER_MAGIC == b"RFIMAGE\x1a"
    assert layout.TRAILER_MAGIC == b"RFTRAIL\x1a"
    assert (layout.VERSION_MAJOR, layout.GRANULES_PER_BLOCK) == (1, 128)
    assert layout.PAGE_BYTES == layout.SEGMENT_BYTES // 16 == 65_536
    assert layout.TRAILER_SIGNED_BYTES == 192
    assert set(layout.TRAILER_NUMBERS) == {
        name for name in layout.TRAILER.names if layout.TRAILER[name].kind == "u"
    }


@pytest.mark.parametrize(
    ("volume_bytes", "granule_bytes"),
    [(1, 512), (512, 512), ((1 << 40) - 1, 512), (1 << 40, 4096), (20 * 10**12, 4096), (1 << 50, 4096)],
)
def test_large_volumes_take_larger_blocks(volume_bytes, granule_bytes):
    assert layout.geometry_for(volume_bytes) == granule_bytes


def test_the_index_of_20_tb_stays_near_2_4_gb():
    block_bytes = layout.geometry_for(20 * 10**12) * layout.GRANULES_PER_BLOCK
    assert 20 * 10**12 / block_bytes * layout.RECORD_BYTES < 2.5e9
