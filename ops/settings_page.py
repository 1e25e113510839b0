"""The table of settings as the operations page shows it, made from the table that the program goes by."""

from __future__ import annotations

from policies.folder_policy import AGENT_FIELDS, FOLDER_FIELDS
from policies.setting_field import SettingField


def settings_table() -> str:
    """Return the table of all settings, in Markdown."""
    lines = ["| setting | takes | default | meaning |", "|---|---|---|---|"]
    lines += [_row(field) for field in AGENT_FIELDS + FOLDER_FIELDS]
    return "\n".join(lines)


def _row(field: SettingField) -> str:
    default = field.plain(field.default)
    shown = {True: "on", False: "off"}[default] if isinstance(default, bool) else str(default)
    allowed = field.allowed.replace("true or false", "on or off")
    return f"| `{field.key}` | {allowed} | `{shown}` | {field.meaning} |"
