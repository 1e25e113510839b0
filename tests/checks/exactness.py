"""Every state comes back to the last bit, whatever the images that lead to it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

from storage.parts import image_files, stored_bytes_of
from tests.bed import VOLUME, Bed, content_of, image_names, number_in, remove_image, rename_image
from tests.command import PROGRAM
from tests.commands import is_clean_ext4, run, sha256_of
from tests.loop import loop_device

TIERS = ("daily", "weekly", "monthly")

Check = Callable[[Bed], str]


def incrementals_alone(bed: Bed) -> str:
    """The base and every incremental, as captured: each state, and the last one in perfect order."""
    count = bed.must_restore(bed.chain, bed.numbers)
    if bed.history.last.clean:
        target = bed.restore(bed.chain, bed.last)
        assert is_clean_ext4(target)
        target.unlink()
    return f"{count} of {len(bed.numbers)} states"


def consolidations_alone(bed: Bed) -> str:
    """The base and dailies, then weeklies made of these, then a monthly, each time with the sources deleted."""
    folder = bed.linked(bed.chain)
    told = []
    for tier in TIERS:
        sources = [name for name in image_names(folder) if name.endswith(".spi")]
        made = bed.roll_up(folder, tier)
        for name in sources:
            remove_image(folder / name)
        bed.must_verify(folder, deep=True)
        ends = [0, *(number_in(path.name) for path in made)]
        count = bed.must_restore(folder, ends)
        bed.must_refuse(folder, [number for number in bed.numbers if number not in ends][:2])
        told.append(f"{count} of {len(ends)} from {len(made)} {tier}")
    return ", ".join(told)


def synthetic_full(bed: Bed) -> str:
    """A new base made of the old one and incrementals; what it replaces is deleted."""
    folder = bed.linked(bed.chain)
    middle = bed.last // 2
    bed.make_full(folder, middle)
    for name in image_names(folder):
        number = number_in(name)
        if number <= middle and not (name.endswith(".spf") and number == middle):
            remove_image(folder / name)
    count = bed.must_restore(folder, range(middle, bed.last + 1))
    bed.must_verify(folder, deep=True)
    return f"{count} of {bed.last + 1 - middle} states from {image_names(folder)[0]} and later incrementals"


def mixed(bed: Bed) -> str:
    """Images of every kind side by side, then one kind after another with gaps that others bridge."""
    folder = bed.linked(bed.chain)
    for tier in TIERS:
        bed.roll_up(folder, tier)
    bed.make_full(folder, bed.per_day)
    count = bed.must_restore(folder, bed.numbers)
    newest = bed.must("restore", folder, "--volume", VOLUME, "--to", bed.folder / "newest.raw").objects[0]
    bed.must_be(bed.folder / "newest.raw", bed.last)
    (bed.folder / "newest.raw").unlink()
    assert len(newest["images"]) == 2, f"more images than it takes: {newest['images']}"

    gone = [1, *range(bed.per_day + 2, bed.per_week)]
    for number in gone:
        remove_image(folder / f"{VOLUME}-b001-i{number:03d}.spi")
    remove_image(folder / f"{VOLUME}-b001-i{bed.last:03d}-cm.spi")
    ends = {*range(0, bed.last + 1, bed.per_day), bed.last, bed.per_day + 1}
    count += bed.must_restore(folder, sorted(ends | set(range(bed.per_week, bed.last + 1))))
    return f"{count} restores from base, full, incrementals, dailies, weeklies and a monthly"


def merging_order_is_no_matter(bed: Bed) -> str:
    """A monthly of weeklies (of dailies) is byte for byte the monthly of incrementals."""
    direct = bed.linked(bed.chain)
    (of_incrementals,) = bed.roll_up(direct, "monthly")
    steps = bed.linked(bed.chain)
    for tier in ("daily", "weekly"):
        sources = [name for name in image_names(steps) if name.endswith(".spi")]
        bed.roll_up(steps, tier)
        for name in sources:
            remove_image(steps / name)
    (of_weeklies,) = bed.roll_up(steps, "monthly")
    assert of_weeklies.name == of_incrementals.name
    assert content_of(of_weeklies) == content_of(of_incrementals), "the two differ"
    full_direct, full_steps = bed.make_full(direct, bed.last), bed.make_full(steps, bed.last)
    for one, other in zip(image_files(full_direct), image_files(full_steps), strict=True):
        assert sha256_of(one) == sha256_of(other), "the synthetic fulls differ"
    size_bytes = stored_bytes_of(of_weeklies)
    return f"{of_weeklies.name} is the same {size_bytes:,} bytes either way, and so is the full"


def two_makers_agree(bed: Bed) -> str:
    """Two processes roll up the same images in two folders at the same time, to the same bytes."""
    steps = ("--volume", VOLUME, "--after", "0", "--upto", str(bed.last), "--tier", "monthly", *bed.spanning)
    folders = [bed.linked(bed.chain), bed.linked(bed.chain)]
    makers = [
        subprocess.Popen([PROGRAM, "consolidate", str(folder), *steps], stdout=subprocess.DEVNULL)
        for folder in folders
    ]
    assert [maker.wait() for maker in makers] == [0, 0]
    made = [folder / f"{VOLUME}-b001-i{bed.last:03d}-cm.spi" for folder in folders]
    assert content_of(made[0]) == content_of(made[1]), "the two differ"
    return f"{stored_bytes_of(made[0]):,} equal bytes"


def onto_old_data(bed: Bed) -> str:
    """Restoring over an existing file, and to a block device that holds another state."""
    middle = bed.last // 2
    file = bed.restore(bed.chain, 0)
    arguments = ("restore", bed.chain, "--volume", VOLUME, "--point", str(middle))
    refused = bed.command(*arguments, "--to", file)
    assert refused.code == 2, str(refused)
    bed.must_be(file, 0)
    bed.must(*arguments, "--to", file, "--overwrite")
    bed.must_be(file, middle)
    with loop_device(file) as device:
        for number in (bed.last, 0, middle):
            bed.must("restore", bed.chain, "--volume", VOLUME, "--point", str(number), "--to", device)
            run("blockdev", "--flushbufs", str(device))
            assert sha256_of(device) == bed.history.states[number].sha256, f"{device} is not state {number}"
    file.unlink()
    return "a file replaced, a device written three times"


def by_time(bed: Bed) -> str:
    """`--at` finds the newest point at or before a time."""
    wanted = bed.last // 2
    times = {found["number"]: found["time"] for found in bed.must("chain", bed.chain).objects}
    target = bed.folder / "at.raw"
    bed.must("restore", bed.chain, "--volume", VOLUME, "--at", times[wanted], "--to", target)
    bed.must_be(target, wanted)
    target.unlink()
    return f"point {wanted} found by its time"


def combined_names(bed: Bed) -> str:
    """An image that stands for several tiers at once is read like any other."""
    folder = bed.linked(bed.chain)
    made = bed.consolidate(folder, 0, bed.per_day, "daily")
    for number in range(1, bed.per_day + 1):
        remove_image(folder / f"{VOLUME}-b001-i{number:03d}.spi")
    for ending in ("-cd-cw.spi", "-cd-cm-cr.spi"):
        made = rename_image(made, f"{VOLUME}-b001-i{bed.per_day:03d}{ending}")
        bed.must_verify(folder)
        bed.must_restore(folder, [bed.per_day, bed.per_day + 1])
    return "-cd-cw and -cd-cm-cr read"


def device_capture(bed: Bed) -> str:
    """Captures of a block device are those of a file; a device that is mounted read-write is refused."""
    folder = bed.new_folder()
    replay = bed.history.replay(bed.folder / "device.raw")
    with loop_device(replay.path) as device:
        bed.must("capture", device, "--into", folder, "--volume", VOLUME, *bed.spanning)
    replay.advance()
    with loop_device(replay.path) as device:
        bed.must("capture", device, "--into", folder, "--volume", VOLUME, *bed.spanning)
        mounted = bed.new_folder("mounted")
        run("mount", str(device), str(mounted))
        try:
            refused = bed.command("capture", device, "--into", folder, "--volume", VOLUME, *bed.spanning)
        finally:
            run("umount", str(mounted))
        assert refused.code == 5, str(refused)
    replay.path.unlink()
    count = bed.must_restore(folder, (0, 1))
    return f"{count} states; refused while mounted"


def lost_fingerprints(bed: Bed) -> str:
    """Lost, stale or damaged fingerprints cost time only: the next incremental is the same size to the byte."""
    names = image_names(bed.chain)[:3]
    replay = bed.history.replay(bed.folder / "fingerprints.raw", 3)
    stored = set()
    for spoil in (_leave, _lose, _damage, _make_stale):
        folder = bed.linked(bed.chain, names)
        spoil(bed, folder)
        (made,) = bed.must(
            "capture", replay.path, "--into", folder, "--volume", VOLUME, *bed.spanning
        ).objects
        stored.add((made["stored_bytes"], made["changed_bytes"]))
        bed.must_restore(folder, [3])
    replay.path.unlink()
    assert len(stored) == 1, f"the incrementals differ: {stored}"
    return f"{next(iter(stored))[0]:,} bytes each time"


def _fingerprints(folder: Path) -> Path:
    (path,) = (folder / ".rollforward").glob("*.fingerprints")
    return path


def _leave(bed: Bed, folder: Path) -> None:
    """The fingerprints are those of a later point already: the folder was cut back."""
    del bed, folder


def _lose(bed: Bed, folder: Path) -> None:
    del bed
    _fingerprints(folder).unlink()


def _damage(bed: Bed, folder: Path) -> None:
    del bed
    content = bytearray(_fingerprints(folder).read_bytes())
    content[len(content) // 2] ^= 1
    _fingerprints(folder).write_bytes(content)


def _make_stale(bed: Bed, folder: Path) -> None:
    """Fingerprints of the base, while the chain is two points further."""
    other = bed.new_folder()
    replay = bed.history.replay(bed.folder / "stale.raw")
    bed.must("capture", replay.path, "--into", other, "--volume", VOLUME)
    replay.path.unlink()
    _fingerprints(folder).write_bytes(_fingerprints(other).read_bytes())


RESIZED_CHECKS: tuple[Check, ...] = (
    incrementals_alone,
    consolidations_alone,
    synthetic_full,
    mixed,
    merging_order_is_no_matter,
)
CHECKS: tuple[Check, ...] = (
    *RESIZED_CHECKS,
    two_makers_agree,
    onto_old_data,
    device_capture,
    lost_fingerprints,
    combined_names,
    by_time,
)
