"""One chain of a folder: its images as spans, and what can be done with them."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from policies.assuming import NamedFile, assume_spans
from policies.differentials import differential_below_merged
from policies.errors import ConfigurationError, ForeignContainerError, FormatError, MissingPointError
from policies.merging import MergePlan, plan_merge, point_numbered
from policies.names import Tier, image_name
from policies.points import Point, PointId, Span
from policies.reach import shortest_path, ways_from_nothing
from storage.folder import FoundImage, chains, scan_folder
from storage.foreign import HINT

Planned = TypeVar("Planned")


@dataclass(frozen=True)
class Chain:
    """The images of one volume on one base.

    Attributes:
        folder: where they are.
        volume: name of the volume.
        base: number of the base.
        images: all of them, in the order of their names, unusable ones too.
    """

    folder: Path
    volume: str
    base: int
    images: tuple[FoundImage, ...]

    @cached_property
    def spans(self) -> tuple[Span, ...]:
        """The usable images as spans."""
        return tuple(image.span() for image in self.images if image.usable)

    @cached_property
    def unusable(self) -> tuple[FoundImage, ...]:
        """Images that are bad at first sight."""
        return tuple(image for image in self.images if not image.usable)

    @cached_property
    def foreign(self) -> tuple[FoundImage, ...]:
        """Images in ShadowProtect's own container: known by their names alone."""
        return tuple(image for image in self.images if image.is_foreign)

    @cached_property
    def assumed_spans(self) -> tuple[Span, ...]:
        """The foreign images as spans that only their names vouch for, in the same order; nothing rests on them."""
        files = (
            NamedFile(image.path.name, _modified_at(image.path), image.stored_bytes) for image in self.foreign
        )
        return assume_spans(files)

    def without(self, names: Collection[str]) -> Chain:
        """Return the chain as it would be without some files.

        Raises:
            ConfigurationError: one of them is no image of the chain.
        """
        strange = sorted(set(names) - {image.path.name for image in self.images})
        if strange:
            raise ConfigurationError(
                f"holds no image {strange[0]!r} of {self.volume!r}", path=str(self.folder)
            )
        return replace(self, images=tuple(image for image in self.images if image.path.name not in names))

    def leads_to(self, point: Point) -> bool:
        """Tell whether a gapless way leads to a point."""
        return shortest_path(self.spans, point.id) is not None

    def point(self, number: int) -> Point:
        """Return the point of a number.

        Raises:
            MissingPointError: there is none.
            FormatError: there is none, and a bad image may be why.
            ForkError: several lines have one.
        """
        return self._plan(lambda: point_numbered(self.spans, number))

    def newest(self) -> Point:
        """Return the newest point that can be restored.

        Raises:
            MissingPointError: nothing can be restored, or a later point is out of reach.
            FormatError: a later image is bad, so that what looks newest is not.
        """
        return self._newest(None)

    def point_at(self, time: datetime) -> Point:
        """Return the newest point at or before a time.

        Raises:
            MissingPointError: none of the points that can be restored is that old, or a later one that would be
                is out of reach.
            FormatError: a bad image may be the one that leads to it.
        """
        return self._newest(time)

    def _newest(self, time: datetime | None) -> Point:
        reached = [way.span.end for way in ways_from_nothing(self.spans).values()]
        fitting = [point for point in reached if time is None or point.time <= time]
        if not fitting:
            when = "" if time is None else f" of {time.isoformat(sep=' ')} or before"
            return self._plan(lambda: _nothing(self, when))
        chosen = max(fitting, key=lambda point: (point.time, point.number, point.id))
        self._refuse_later(chosen, {point.id for point in reached}, time)
        return chosen

    def _refuse_later(self, chosen: Point, reached: Collection[PointId], time: datetime | None) -> None:
        """Raise where an image that is bad, or out of reach, leads to a later point that would do as well."""
        hint = f"The newest point before it is {chosen.number}: ask for it with --point {chosen.number}."
        ends = [span.end for span in self.spans]
        too_late = min((end.number for end in ends if time and end.time > time), default=None)
        for image in self.unusable:
            number = image.name.point_number
            if number > chosen.number and (too_late is None or number < too_late):
                raise image.refusal(hint)
        for end in ends:
            is_later = (end.time, end.number) > (chosen.time, chosen.number)
            if is_later and end.id not in reached and (time is None or end.time <= time):
                raise MissingPointError(
                    f"point {end.number}, which is later, is out of reach: an image before it is missing",
                    path=str(self.folder),
                    hint=f"{hint} `rollforward chain` shows where the gap is.",
                )

    def path_to(self, point: Point) -> tuple[Path, ...]:
        """Return the fewest images that lead to a point, base first.

        Raises:
            MissingPointError: no way leads there.
            FormatError: no way leads there, and a bad image may be why.
        """

        def plan() -> tuple[Span, ...]:
            path = shortest_path(self.spans, point.id)
            if path is None:
                raise MissingPointError(
                    f"no gapless way leads to point {point.number} of {self.volume!r}",
                    path=str(self.folder),
                    hint="`rollforward chain` shows where the gap is.",
                )
            return path

        return tuple(self.folder / span.name for span in self._plan(plan))

    def merge(self, after: Point | None, upto: Point) -> MergePlan:
        """Return which images lead from one point to another; raises as `policies.merging.plan_merge` does."""
        return self._plan(lambda: plan_merge(self.spans, after, upto))

    def target(self, plan: MergePlan, tier: Tier | None) -> Path:
        """Return where a consolidation goes; without a tier, a synthetic full."""
        below = differential_below_merged(plan.sources)
        tiers = () if tier is None else (tier,)
        number = plan.covers[-1].number
        name = image_name(self.volume, self.base, number, tiers, full=tier is None, differential=below)
        return self.folder / name.filename()

    def _plan(self, plan: Callable[[], Planned]) -> Planned:
        """Plan; where that fails for want of a point, name the bad image that may be the reason."""
        try:
            return plan()
        except MissingPointError as error:
            for image in self.unusable:
                if image.trouble is not None:
                    raise image.trouble from error
                if image.is_foreign:
                    raise ForeignContainerError(
                        f"{image.problem}; without it, {error.message}", path=str(image.path), hint=HINT
                    ) from error
                raise FormatError(
                    f"{image.problem}; without it, {error.message}",
                    path=str(image.path),
                    hint="Fetch a good copy of this file from a replica.",
                ) from error
            raise


def _modified_at(path: Path) -> datetime:
    """Return when a file was last written; the beginning of time where that cannot be seen."""
    try:
        return datetime.fromtimestamp(path.lstat().st_mtime, UTC)
    except (OSError, OverflowError, ValueError):
        return datetime.fromtimestamp(0, UTC)


def _nothing(chain: Chain, when: str) -> Point:
    raise MissingPointError(
        f"no point{when} can be restored from chain b{chain.base:03d} of {chain.volume!r}",
        path=str(chain.folder),
    )


def load_chain(folder: Path, volume: str | None = None, base: int | None = None) -> Chain:
    """Load one chain of a folder.

    Args:
        folder: the managed folder.
        volume: name of the volume; None if the folder holds only one.
        base: number of the base; None for the latest.

    Raises:
        ConfigurationError: no such chain; the message names those there are.
        StorageError: the folder cannot be read.
    """
    found = chains(scan_folder(folder, volume))
    volumes = sorted({name for name, _ in found})
    if not volumes:
        known = sorted({name for name, _ in chains(scan_folder(folder))}) if volume is not None else []
        raise ConfigurationError(
            f"holds no images of {volume!r}" if volume is not None else "holds no images",
            path=str(folder),
            hint=f"There are images of: {', '.join(known)}." if known else None,
        )
    if len(volumes) > 1:
        raise ConfigurationError(
            f"holds {len(volumes)} volumes: {', '.join(volumes)}",
            path=str(folder),
            hint="Choose one with --volume.",
        )
    chosen = base if base is not None else max(number for _, number in found)
    if (volumes[0], chosen) not in found:
        raise ConfigurationError(f"holds no chain b{chosen:03d} of {volumes[0]!r}", path=str(folder))
    return Chain(folder, volumes[0], chosen, found[volumes[0], chosen])
