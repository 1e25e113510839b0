"""All that the catalogue knows of a chain, as the planner takes it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import datetime
from zoneinfo import ZoneInfo

from sqlalchemy import select
from sqlalchemy.orm import Session

from policies.chain_facts import ChainFacts
from policies.holdings import Holding, Whereabouts, worth_remembering
from policies.points import PointId
from storage.catalog.claims import claims_of_chain
from storage.catalog.freezes import freezes_of_chain, waived_keys
from storage.catalog.holds import holds_of_folder
from storage.catalog.ledger_lines import add_line
from storage.catalog.memory_models import Sight
from storage.catalog.models import Chain, Folder, Image, ImageState
from storage.catalog.points import span_of
from storage.ledger_entries import SightEntry


def chain_facts(
    session: Session,
    chain: Chain,
    *,
    now: datetime,
    machine_now: datetime,
    blocked: Mapping[str, str] | None = None,
    taken: Collection[str] = (),
) -> ChainFacts:
    """Load all that is known of a chain. A plan made of it holds while the chain keeps its revision.

    Args:
        session: any session.
        chain: the chain, with the revision to compare with later.
        now: calendar time.
        machine_now: real time.
        blocked: results that are not to be tried at present, by name, each with its reason.
        taken: names of files in the folder that the catalogue does not know.
    """
    folder = session.get_one(Folder, chain.folder_id)
    images = session.scalars(select(Image).where(Image.chain_id == chain.id).order_by(Image.name))
    others = select(Image.name).where(
        Image.folder_id == chain.folder_id,
        Image.chain_id.is_distinct_from(chain.id),
        Image.name.startswith(f"{chain.volume}-b{chain.base_number:03d}", autoescape=True),
    )
    found = [holding_of(image) for image in images]
    return ChainFacts(
        volume=chain.volume,
        base_number=chain.base_number,
        zone=ZoneInfo(folder.time_zone),
        holdings=tuple(holding for holding in found if holding is not None),
        seen_at=sights_of_folder(session, chain.folder_id),
        holds=holds_of_folder(session, chain.folder_id),
        claims=claims_of_chain(session, chain.id, machine_now=machine_now),
        freezes=freezes_of_chain(session, chain, now),
        waived=waived_keys(session, chain.folder_id),
        taken=frozenset(taken) | frozenset(session.scalars(others)),
        blocked=dict(blocked or {}),
    )


def holding_of(image: Image) -> Holding | None:
    """Return an image as the planner knows it; None while neither its header nor its name says where it leads."""
    span = span_of(image)
    if span is None:
        return None
    place = Whereabouts.PRESENT
    if image.state is ImageState.MISSING:
        place = Whereabouts.GONE
    elif image.state is ImageState.ASIDE:
        place = Whereabouts.ASIDE
    return Holding(
        span=replace(span, assumed=True) if image.assumed else span,
        first_seen_at=image.first_seen_at,
        verified_at=image.verified_at,
        checked_at=image.checked_at,
        fault=(image.reason or "judged bad") if image.state is ImageState.BAD else None,
        place=place,
        plain_bytes=image.plain_bytes,
    )


def gone_images(session: Session, chain_id: int) -> dict[str, datetime]:
    """Tell since when each image of a chain has been gone that nobody of ours took away, by name."""
    query = select(Image.name, Image.gone_since, Image.first_seen_at).where(
        Image.chain_id == chain_id, Image.state == ImageState.MISSING
    )
    return {name: gone_since or first_seen_at for name, gone_since, first_seen_at in session.execute(query)}


def sights_of_folder(session: Session, folder_id: int) -> dict[PointId, datetime]:
    """Tell when points were first seen whose stamps cannot be right."""
    query = select(Sight.point, Sight.seen_at).where(Sight.folder_id == folder_id)
    return {PointId(bytes.fromhex(point)): seen_at for point, seen_at in session.execute(query)}


def remember_sights(session: Session, image: Image) -> None:
    """Remember when an image's points were first seen, as far as their stamps cannot be right.

    Args:
        session: of a write transaction.
        image: an image whose header was read.
    """
    holding = holding_of(image)
    for point, seen_at in worth_remembering([] if holding is None else [holding]).items():
        row = session.get(Sight, (image.folder_id, point.hex()))
        if row is None:
            session.add(Sight(folder_id=image.folder_id, point=point.hex(), seen_at=seen_at))
        elif seen_at < row.seen_at:
            row.seen_at = seen_at
        else:
            continue
        add_line(session, image.folder_id, SightEntry(point.hex(), seen_at))
