"""The boot code of a wrapped disk: starts the active partition, or the one that the disk was made for.

Other programs' boot code is not copied; this is all that there is. It needs a BIOS that reads by sector number, which
is any of this century.
"""

from __future__ import annotations

from typing import Final

WORDS: Final = b"The volume on this disk does not start by itself.\r\n"

BOOT_CODE: Final = (
    bytes.fromhex(
        "fa 31c0 8ed8 8ec0 8ed0 bc007c fb fc"  # all segments 0, stack below 0x7c00
        "89e6 bf0006 b90001 f3a5 ea1d060000"  # move to 0x600 and go on there
        "bebe07 b104"  # the four entries of the table:
        "f60480 750d 83c610 e2f6"  # take the first that is active,
        "bea807 f60480 742c"  # else the fifth, which stands before the table, if it is
        "89f5 52"  # keep entry and drive
        "50 50 66ff7408 50 68007c 6a01 6a10"  # on the stack: read one sector, its number in the entry, to 0x7c00
        "89e6 b442 cd13 8d6410"  # have the BIOS read it
        "5a 89ee 720d"  # drive and entry are for whoever is started
        "813efe7d55aa 7505 ea007c0000"  # start it, if it says that it can be
        "be7606 ac 84c0 7409 bb0700 b40e cd10 ebf2"  # else say the words below,
        "cd18 f4 ebfb"  # and let the BIOS try another disk
    )
    + WORDS
    + b"\0"
)
