"""Foreign files land under a real agent: proven by side files, whenever these come, and never merged or removed."""

from __future__ import annotations

from datetime import UTC, datetime

from storage.catalog import EventKind, ImageState
from tests.foreign import put_foreign, side_file_of
from tests.integration.agent_run import AgentRun, wait_for

BASE = "D's Müll_VOL-b001.spf"
FIRST, SECOND = BASE.replace(".spf", "-i001.spi"), BASE.replace(".spf", "-i002.spi")


def test_side_files_prove_images_whenever_they_come(agent: AgentRun):
    put_foreign(agent.folder, BASE)
    late = put_foreign(agent.folder, FIRST, side_file=False)
    damaged = put_foreign(agent.folder, SECOND)
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    wait_for(
        lambda: agent.states() == {BASE: ImageState.GOOD, FIRST: ImageState.UNPROVEN, SECOND: ImageState.BAD},
        "a verdict on each",
    )
    assert agent.images()[FIRST].reason == "no side file: cannot be verified"
    late.with_suffix(".md5").write_bytes(side_file_of((FIRST, late.read_bytes()), encoding="cp1252"))
    agent.wait_good(BASE, FIRST)
    images = agent.images()
    assert all(image.assumed and image.root is None for image in images.values())
    assert len({image.chain_id for image in images.values()}) == 1
    assert [event.subject for event in agent.events(EventKind.UNPROVEN)] == [FIRST]
    agent.clock.set(datetime(2026, 3, 20, 6, tzinfo=UTC))
    wait_for(
        lambda: all(chain.next_due_at > agent.clock() for chain in agent.chains()), "a look at the chain"
    )
    assert agent.states() == {BASE: ImageState.GOOD, FIRST: ImageState.GOOD, SECOND: ImageState.BAD}
    assert agent.events(EventKind.CONSOLIDATED) == []
    assert sorted(path.name for path in agent.folder.glob("*.sp?")) == sorted([BASE, FIRST, SECOND])
