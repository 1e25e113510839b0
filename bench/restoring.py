"""Restore of the newest state from a base and all incrementals, against qemu-img and its zstd chain."""

from __future__ import annotations

from bench.ground import Ground
from bench.qemu import Clusters, overlay_chain
from bench.report import Goal, Row
from bench.timing import Contender, fsync, take_turns
from hsr.restore import restore
from tests.commands import run

AT_MOST = 0.6


def compare(ground: Ground) -> list[Row]:
    """Measure restoring to a raw file."""
    folder = ground.new_folder("restored")
    ours, theirs = folder / "ours.raw", folder / "qemu.raw"
    last = ground.history.last.number
    images = ground.chain
    chain = overlay_chain(ground, Clusters.ZSTD)

    def restore_ours(_round: int) -> None:
        restore(images, ours)

    def restore_theirs(_round: int) -> None:
        run("qemu-img", "convert", "-W", "-m", "16", "-f", "qcow2", "-O", "raw", str(chain.tip), str(theirs))
        fsync(theirs)

    ours_name = f"restore base + {last}"
    contenders = [
        Contender(
            ours_name,
            restore_ours,
            lambda _: ours.unlink(missing_ok=True),
            lambda: ground.must_be(ours, last),
            images,
        ),
        Contender(
            "qemu-img convert -W -m 16, zstd chain",
            restore_theirs,
            lambda _: theirs.unlink(missing_ok=True),
            lambda: ground.must_be(theirs, last),
            chain.files,
        ),
    ]
    timings = take_turns(contenders, ground.rounds, ground.report)
    (peer,) = (timing for name, timing in timings.items() if name != ours_name)
    return [Row("restore to raw", timings[ours_name], peer, Goal.SHARE_OF_TIME, AT_MOST)]
