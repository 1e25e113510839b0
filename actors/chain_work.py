"""All work on one chain: planned, done, recorded; then it is planned again, until nothing is to be done now.

Done first is what was begun before; then what rolls up, lower tiers first; then what retires; then what is deleted for
good. Images to be verified again are named to the workers that do that.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

import structlog

from actors.chain_view import ChainView, load_view, may_be_worked_in, not_yet_taken_in
from actors.consolidate import AGAIN_AFTER, Blocked, roll_up
from actors.context import AgentContext
from actors.hints import Hints
from actors.patience import patiently
from actors.retire import Progress, begin_removals, delete_retired, finish_removals
from actors.trying import holding_chain
from policies.errors import OwnershipError, StorageError
from policies.lifecycle import PlannedVerification
from storage.catalog.leases import check_fence
from storage.catalog.memory_models import Agent
from storage.catalog.mirroring import mirror_ledger
from storage.catalog.models import Chain, EventKind, Folder, Image, ImageState
from storage.ledger_owner import refuse_another

_log = structlog.get_logger("agent")

_AT_LATEST: Final = timedelta(days=1)
"""A chain is planned at least so often."""

_WORK_TAKES_LONGER: Final = 10
"""Syncing a large image may take so many times as long as a folder may otherwise be silent."""

_NAMED_AT_ONCE: Final = 20
"""So many images are named to be verified at once: more would only wait."""


def look_after_chain(context: AgentContext, hints: Hints, chain_id: int) -> None:
    """Do what is due for a chain, unless another worker does.

    Args:
        context: surroundings.
        hints: where to say what is to be done next.
        chain_id: the chain; one that is no longer catalogued is passed over.

    Raises:
        CatalogError: the catalogue cannot be used.
        ConfigurationError: what is stored of its folder is no setting of this version.

    Crash: each step leaves either what was before or what comes after; the next run goes on.
    """
    found = _folder_if_due(context, chain_id)
    if found is None:
        return
    folder, agent = found
    with holding_chain(context, chain_id) as fence:
        if fence is None:
            return
        token = fence
        try:
            patiently(
                folder.path,
                context.pace.silence.total_seconds() * _WORK_TAKES_LONGER,
                lambda answered: _go(
                    _Run(replace(context, answered=answered), hints, chain_id, token), folder, agent
                ),
            )
        except (StorageError, OwnershipError) as error:
            _log.warning("work on a chain was given up", folder=folder.path, reason=str(error))
            hints.folder_changed(folder.id)


def _go(run: _Run, folder: Folder, agent: Agent | None) -> None:
    """Do all that is due now in a folder, if it is still ours: somebody may have taken it over since the last scan.

    Raises:
        OwnershipError: it is another agent's.
        StorageError: the folder was given up because it did not answer.
    """
    if agent is not None:
        refuse_another(Path(folder.path), agent.uid)
    run.go()


def _folder_if_due(context: AgentContext, chain_id: int) -> tuple[Folder, Agent | None] | None:
    """Give the folder of a chain that may have something due, and who we are, without writing anything."""
    with context.catalog.read() as session:
        chain = session.get(Chain, chain_id)
        if chain is None or chain.next_due_at > context.clock():
            return None
        folder, agent = session.get_one(Folder, chain.folder_id), session.get(Agent, 1)
        return (folder, agent) if may_be_worked_in(folder) else None


@dataclass(slots=True)
class _Run:
    """One run of work on a chain, under one lease."""

    context: AgentContext
    hints: Hints
    chain_id: int
    fence: int
    blocked: dict[str, Blocked] = field(default_factory=dict)

    def go(self) -> None:
        """Do all that is due now.

        Raises:
            StorageError: the folder was given up because it did not answer.
        """
        while not self.context.stopping.is_set() and self.step():
            self.context.answered()

    def step(self) -> bool:
        """Plan, and do one thing; tell whether to go on."""
        reasons = {name: blocked.reason for name, blocked in self.blocked.items()}
        view = load_view(self.context, self.chain_id, self.fence, reasons)
        if view is None:
            return False
        finished = finish_removals(self.context, self.hints, view, self.fence)
        if finished is not None:
            self._note_blocked(finished)
            if finished.done:
                return True
        unseen = self._unseen(view)
        if unseen is not None:
            return not self._wait(view, f"a scan of {unseen}", view.chain.next_due_at, scan_first=True)
        if view.plan.consolidations:
            blocked = roll_up(self.context, self.hints, view, view.plan.consolidations[0], self.fence)
            if blocked is not None:
                self.blocked[blocked.name] = blocked
            return True
        if any(planned.name not in self.blocked for planned in view.plan.retirements):
            begun = begin_removals(self.context, view, self.fence, self.blocked)
            self._note_blocked(begun)
            return bool(begun.done or begun.blocked) or not self._is_stuck(view)
        deleted = delete_retired(self.context, self.hints, view, self.fence)
        self._note_blocked(deleted)
        if deleted.done:
            return True
        return self._rest(view, deleted.next_at)

    def _note_blocked(self, progress: Progress) -> None:
        self.blocked.update({blocked.name: blocked for blocked in progress.blocked})

    def _unseen(self, view: ChainView) -> str | None:
        """Name a file that has to be taken in before anything is done."""
        numbers = [planned.upto.number for planned in view.plan.consolidations]
        if view.plan.retirements:
            numbers.extend(one.span.end.number for one in view.facts.holdings if one.is_proven)
        return not_yet_taken_in(view, max(numbers)) if numbers else None

    def _is_stuck(self, view: ChainView) -> bool:
        """Nothing of a plan could be begun: give up what was tried if the chain is still the one that was planned."""
        with self.context.catalog.read() as session:
            chain, folder = session.get(Chain, self.chain_id), session.get(Folder, view.folder.id)
        if chain is None or folder is None:
            return True
        if chain.revision != view.chain.revision:
            return False
        reason = folder.ledger_problem or "it is no longer what was verified"
        for planned in view.plan.retirements:
            self.blocked.setdefault(planned.name, Blocked(planned.name, reason, view.now + AGAIN_AFTER))
        return False

    def _rest(self, view: ChainView, next_at: datetime | None) -> bool:
        """Nothing more can be done now: say what waits, name what is to be verified, set when to ask again.

        Returns:
            Whether the chain changed meanwhile, and is to be planned anew.
        """
        mirror_ledger(self.context.catalog, view.folder.id, now=view.now)
        stays_due = self._name_verifications(view)
        waits_for = view.plan.waits[0].reason if view.plan.waits else None
        if waits_for is None and self.blocked:
            first = next(iter(self.blocked.values()))
            waits_for = f"{first.name}: {first.reason}"
        if stays_due:
            return not self._wait(view, waits_for, view.chain.next_due_at)
        ahead = [one for one in (view.plan.next_due_at, next_at) if one is not None and one > view.now]
        again = [
            max(blocked.until, view.now) for blocked in self.blocked.values() if blocked.until is not None
        ]
        due_at = min([*ahead, *again, view.now + _AT_LATEST])
        return not self._wait(view, waits_for, due_at, is_done=True)

    def _name_verifications(self, view: ChainView) -> bool:
        """Have images read back whose day it is; tell whether the chain stays due until they are."""
        since = self.context.machine_clock() - self.context.pace.hint_again
        planned = [one for one in view.plan.verifications if one.name in view.files]
        good = [one for one in planned if view.files[one.name].state is ImageState.GOOD]
        asked = self._asked(view, planned)
        late = []
        for one in [*asked, *good][:_NAMED_AT_ONCE]:
            hinted_at = view.files[one.name].hinted_at
            if hinted_at is None or hinted_at <= since:
                late.append(view.files[one.name])
        if late:
            with self.context.catalog.write() as session:
                if check_fence(session, self.chain_id, self.fence).revision != view.chain.revision:
                    return True  # one of them may have been read back meanwhile
                for known in late:
                    image = session.get(Image, known.image_id)
                    if image is not None:
                        image.hinted_at = self.context.machine_clock()
                        image.asked_at = view.now
            for known in late:
                if known.state is ImageState.GOOD:
                    self.hints.image_due_again(known.image_id)
                else:
                    self.hints.image_landed(known.image_id)
        return bool(good or asked)

    def _asked(self, view: ChainView, planned: list[PlannedVerification]) -> list[PlannedVerification]:
        """Give the images that are new, and are verified only because the plan asks for them."""
        if view.policy.verification.verify_new:
            return []
        return [one for one in planned if view.files[one.name].state is ImageState.LANDED]

    def _wait(
        self,
        view: ChainView,
        waits_for: str | None,
        due_at: datetime,
        *,
        scan_first: bool = False,
        is_done: bool = False,
    ) -> bool:
        """Record when the chain is to be planned again, and why not now.

        Returns:
            False if the chain changed since it was loaded: then it is to be planned anew.
        """
        with self.context.catalog.write() as session:
            chain = check_fence(session, self.chain_id, self.fence)
            if chain.revision != view.chain.revision:
                return False
            if is_done and chain.started_at is not None:
                chain.started_at = None
                due_at = view.now  # planned once more, as of the last control time
            chain.next_due_at = due_at
            if waits_for is not None and waits_for != chain.waits_for:
                self.context.note(
                    session,
                    EventKind.WAITING,
                    view.title,
                    f"what is due waits for {waits_for}",
                    folder_id=chain.folder_id,
                    chain_id=chain.id,
                )
            chain.waits_for = waits_for
        if scan_first:
            self.hints.folder_changed(view.folder.id)
        return True
