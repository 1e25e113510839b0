"""Consolidation of all incrementals, against qemu-img merging the same states, and against a plain copy of the result.

`qemu-img rebase` and `qemu-img commit` both give a right result, of uncompressed clusters either way; a merge by
`qemu-img convert -B` is quick and wrong, since it takes nothing from below the newest overlay. The goal stands
against rebase, which like ours leaves every source as it was and makes a new image of them all; commit writes into
its oldest source, and is shown beside it.
"""

from __future__ import annotations

import shutil

from bench.ground import Ground
from bench.qemu import Clusters, CommitMerge, RebaseMerge, overlay_chain
from bench.report import Goal, Row
from bench.timing import Contender, Timing, fsync, take_turns
from hsr.restore import restore
from storage.consolidate import consolidate

AT_LEAST = 10.0
AT_MOST_COPIES = 2.5
MIB = 1 << 20


class OurMerge:
    """All incrementals of our chain into one, every digest checked."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self.merged = ground.new_folder("consolidated") / "D_VOL-b001-cm.spi"

    def prepare(self, _round: int) -> None:
        """Take the last result away."""
        self.merged.unlink(missing_ok=True)

    def run(self, _round: int) -> None:
        """Consolidate; the result is synced when this returns."""
        consolidate(self._ground.chain[1:], self.merged)

    def check(self) -> None:
        """Restore the last state from the base and the result alone."""
        restored = self.merged.with_suffix(".raw")
        restore([self._ground.chain[0], self.merged], restored)
        self._ground.must_be(restored, self._ground.history.last.number)
        restored.unlink()


class PlainCopy:
    """Copying our result: as many bytes brought to the medium, and nothing else done."""

    def __init__(self, ours: OurMerge) -> None:
        self._ours = ours
        self.source = ours.merged.with_name("result-to-copy.spi")
        self._copy = ours.merged.with_suffix(".copy")

    def prepare(self, _round: int) -> None:
        """Keep a result to copy from; take the last copy away."""
        if not self.source.exists():
            if not self._ours.merged.exists():
                self._ours.run(0)
            shutil.copyfile(self._ours.merged, self.source)
        self._copy.unlink(missing_ok=True)

    def run(self, _round: int) -> None:
        """Copy and sync."""
        shutil.copyfile(self.source, self._copy)
        fsync(self._copy)


def compare(ground: Ground) -> list[Row]:
    """Measure consolidation.

    Returns:
        One row for each of qemu-img's ways and each kind of cluster.
    """
    ours = OurMerge(ground)
    copy = PlainCopy(ours)
    ours_name, copy_name = f"consolidate {len(ground.chain) - 1}", "copyfile of the result"
    contenders = [
        Contender(ours_name, ours.run, ours.prepare, ours.check, ground.chain[1:]),
        Contender(copy_name, copy.run, copy.prepare, inputs=[copy.source]),
    ]
    commits: list[CommitMerge] = []
    sizes: dict[str, RebaseMerge | CommitMerge] = {}
    for clusters in Clusters:
        chain = overlay_chain(ground, clusters)
        rebase, commit = RebaseMerge(chain), CommitMerge(chain)
        commits.append(commit)
        for way, merge in (("rebase", rebase), ("commit", commit)):
            name = f"qemu-img {way}, {clusters} overlays"
            sizes[name] = merge
            contenders.append(Contender(name, merge.run, merge.prepare, merge.check, chain.files))
    timings = take_turns(contenders, ground.rounds, ground.report)
    stored = {name: merge.merged.stat().st_size // MIB for name, merge in sizes.items()}
    own_stored = ours.merged.stat().st_size // MIB
    for commit in commits:
        commit.put_back()
    rows = [_row(timings[ours_name], timings[name], own_stored, stored[name]) for name in sizes]
    copied = Row("consolidate", timings[ours_name], timings[copy_name], Goal.SHARE_OF_TIME, AT_MOST_COPIES)
    return [*rows, copied]


def _row(ours: Timing, peer: Timing, own_mib: int, peer_mib: int) -> Row:
    note = f"leaves {own_mib:,} MiB, checked against digests; {peer.name} leaves {peer_mib:,} MiB, unchecked"
    if "commit" in peer.name:
        return Row("consolidate", ours, peer, note=f"{note}; commit writes into its oldest source")
    return Row("consolidate", ours, peer, Goal.TIMES_FASTER, AT_LEAST, note)
