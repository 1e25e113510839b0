"""Whether a set of images may be removed.

The set is judged as a whole: two files may each be dispensable, and not both. What is left counts only as
far as it was read back and found good after it was published, and says by its own header where it leads.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from policies.cursor import Cursor, roll_on_path
from policies.points import Point, PointId, Span
from policies.reach import Way, reachable, ways_from_nothing


@dataclass(frozen=True, slots=True)
class Promise:
    """A point that somebody must still be able to get to.

    Attributes:
        point: the point.
        needed_by: who relies on it, in words for the administrator: a policy, a hold, a transfer, a job.
        standing: where the disk stands that must be able to roll on to the point; None where the point must
            be restorable from nothing.
    """

    point: Point
    needed_by: str
    standing: Cursor | None = None


@dataclass(frozen=True, slots=True)
class BrokenPromise:
    """A promise that would not hold.

    Attributes:
        promise: the promise.
        reason: why not, in words for the administrator.
        lost: the last of the files to be removed on the way that leads there now; None when none does.
    """

    promise: Promise
    reason: str
    lost: str | None


@dataclass(frozen=True, slots=True)
class RetirementVerdict:
    """What a set of removals would do.

    Attributes:
        broken: the promises that would not hold, in the order in which they were given.
        spare: names of files to take off the set: without these removals every promise holds that holds now.
    """

    broken: tuple[BrokenPromise, ...]
    spare: frozenset[str]

    @property
    def allowed(self) -> bool:
        """Whether the whole set may be removed."""
        return not self.broken


def judge_retirement(
    spans: Iterable[Span], removals: Collection[str], promised: Collection[Promise]
) -> RetirementVerdict:
    """Judge the removal of a set of images as a whole.

    Args:
        spans: all spans of the chain, those to be removed among them.
        removals: names of the files to be removed; names of other files are ignored.
        promised: what must hold afterwards.

    Returns:
        The verdict: allowed when each promised point can be reached through the spans that remain, are
        verified and not assumed. A promise that does not hold even now forbids every removal.
    """
    proven = tuple(span for span in spans if span.verified and not span.assumed)
    doomed = frozenset(removals)
    remaining = tuple(span for span in proven if span.name not in doomed)
    restorable = reachable(remaining)
    failing = [promise for promise in promised if not _holds(promise, remaining, restorable)]
    if not failing:
        return RetirementVerdict((), frozenset())
    trail = _Trail(ways_from_nothing(proven), doomed)
    broken = tuple(_explain(promise, proven, trail) for promise in failing)
    return RetirementVerdict(broken, frozenset(trail.spare))


class _Trail:
    """Walks back along the ways that there are now, over each step once, and notes what they would lose.

    Attributes:
        spare: names of all doomed files that were met.
    """

    def __init__(self, ways: Mapping[PointId, Way], doomed: Collection[str]) -> None:
        self._ways = ways
        self._doomed = doomed
        self._lost: dict[PointId, str | None] = {}
        self.spare: set[str] = set()

    def last_lost(self, point: PointId) -> str | None:
        """Walk back from a point; give the last doomed file on its way, if any."""
        steps: list[PointId] = []
        here: PointId | None = point
        while here is not None and here in self._ways and here not in self._lost:
            steps.append(here)
            here = self._ways[here].previous
        lost = None if here is None else self._lost.get(here)
        for step in reversed(steps):
            lost = self._note(self._ways[step].span, lost)
            self._lost[step] = lost
        return lost

    def last_lost_of(self, path: Iterable[Span]) -> str | None:
        """Walk along a path; give the last doomed file on it, if any."""
        lost: str | None = None
        for span in path:
            lost = self._note(span, lost)
        return lost

    def _note(self, span: Span, lost: str | None) -> str | None:
        if span.name not in self._doomed:
            return lost
        self.spare.add(span.name)
        return span.name


def _holds(promise: Promise, remaining: tuple[Span, ...], restorable: Collection[PointId]) -> bool:
    if promise.standing is None or promise.standing.is_blank:
        return promise.point.id in restorable
    return roll_on_path(promise.standing, remaining, promise.point.id) is not None


def _explain(promise: Promise, proven: tuple[Span, ...], trail: _Trail) -> BrokenPromise:
    number = promise.point.number
    if promise.standing is None or promise.standing.is_blank:
        lost = trail.last_lost(promise.point.id)
        aim = f"point {number} restored"
    else:
        lost = trail.last_lost_of(roll_on_path(promise.standing, proven, promise.point.id) or ())
        places = ", ".join(str(point.number) for point in promise.standing.points)
        aim = f"a disk that stands at {places} rolled on to point {number}"
    if lost is None:
        reason = f"{promise.needed_by} needs {aim}, and no verified images lead there even now"
    else:
        reason = f"{promise.needed_by} needs {aim}, and no verified images would lead there without {lost}"
    return BrokenPromise(promise, reason, lost)
