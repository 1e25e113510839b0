"""Triggers by which the database keeps `folder_tally` in step with `image`, whoever writes there.

So the state of thousands of folders is told from a few rows each, and never by counting images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

_ADD: Final = (
    "INSERT INTO folder_tally (folder_id, state, tier, images, stored_bytes)"
    " VALUES (NEW.folder_id, NEW.state, NEW.tier, 1, NEW.stored_bytes)"
    " ON CONFLICT (folder_id, state, tier) DO UPDATE SET"
    " images = folder_tally.images + 1,"
    " stored_bytes = folder_tally.stored_bytes + excluded.stored_bytes;"
)
_TAKE: Final = (
    "UPDATE folder_tally SET images = images - 1, stored_bytes = stored_bytes - OLD.stored_bytes"
    " WHERE folder_id = OLD.folder_id AND state = OLD.state AND tier = OLD.tier;"
)
_CHANGES: Final = "UPDATE OF folder_id, state, tier, stored_bytes"

TALLY_TRIGGERS: Final[Mapping[str, Sequence[str]]] = {
    "sqlite": (
        f"CREATE TRIGGER image_counted AFTER INSERT ON image BEGIN {_ADD} END",
        f"CREATE TRIGGER image_counted_anew AFTER {_CHANGES} ON image BEGIN {_TAKE} {_ADD} END",
        f"CREATE TRIGGER image_uncounted AFTER DELETE ON image BEGIN {_TAKE} END",
    ),
    "postgresql": (
        "CREATE FUNCTION count_image() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        f" IF TG_OP <> 'INSERT' THEN {_TAKE} END IF;"
        f" IF TG_OP <> 'DELETE' THEN {_ADD} END IF;"
        " RETURN NULL; END $$",
        f"CREATE TRIGGER image_counted AFTER INSERT OR DELETE OR {_CHANGES} ON image"
        " FOR EACH ROW EXECUTE FUNCTION count_image()",
    ),
}
"""Statements that make them, by the database's dialect."""
