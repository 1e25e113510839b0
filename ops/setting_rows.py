"""Settings as people are shown them: what holds, who set it, what it would be otherwise; and changes of a layer."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from policies.errors import ConfigurationError
from policies.folder_policy import (
    AGENT_FIELDS,
    DEFAULT_AGENT_POLICY,
    FOLDER_FIELDS,
    AgentPolicy,
    FolderPolicy,
    agent_layer,
    folder_layer,
    parse_agent_policy,
    parse_folder_policy,
    setting_layer,
)
from policies.setting_field import SettingField, SettingValue, find_field

Layer = dict[str, dict[str, SettingValue]]
"""Sections of plain values; only what is set."""

WHERE: Final = "the command line"


@dataclass(frozen=True, slots=True)
class SettingRow:
    """One setting of a folder or of the agent.

    Attributes:
        field: what the table says of it.
        value: what holds, as a plain value.
        below: what would hold if it were not set here.
        is_set: whether it is set here.
    """

    field: SettingField
    value: SettingValue
    below: SettingValue
    is_set: bool


def agent_rows(layer: Layer) -> tuple[SettingRow, ...]:
    """Give all settings of the agent, those for its folders among them.

    Args:
        layer: what is set.

    Raises:
        ConfigurationError: what is set is no setting of this version.
    """
    values = agent_layer(parse_agent_policy(layer))
    return _rows(AGENT_FIELDS + FOLDER_FIELDS, values, agent_layer(DEFAULT_AGENT_POLICY), layer)


def folder_rows(layer: Layer, agent: AgentPolicy) -> tuple[SettingRow, ...]:
    """Give all settings of a folder.

    Args:
        layer: what is set for it.
        agent: what is set for the agent.

    Raises:
        ConfigurationError: what is set is no setting of this version.
    """
    policy = parse_folder_policy(layer, agent.folders)
    return _rows(FOLDER_FIELDS, folder_layer(policy), folder_layer(agent.folders), layer)


def _rows(
    fields: Iterable[SettingField], values: Layer, below: Layer, layer: Layer
) -> tuple[SettingRow, ...]:
    return tuple(
        SettingRow(
            field,
            values[field.section][field.name],
            below[field.section][field.name],
            field.name in layer.get(field.section, {}),
        )
        for field in fields
    )


def changed_layer(
    layer: Layer, assignments: Sequence[str], unset: Sequence[str] = (), *, for_agent: bool = False
) -> Layer:
    """Change what a layer sets.

    Args:
        layer: what it sets now; stays as it is.
        assignments: what is to be set, each as SECTION.NAME=VALUE.
        unset: names of settings, or of whole sections, that are no longer to be set here.
        for_agent: whether the agent's own settings may be named too.

    Returns:
        What it sets from then on; plain values, each in its one spelling.

    Raises:
        ConfigurationError: there is no such setting, or its value is not allowed; the message names the setting, the
            value and what is allowed.
    """
    changed = copy.deepcopy(layer)
    for name in unset:
        _unset(changed, name, for_agent=for_agent)
    for assignment in assignments:
        key, sign, text = assignment.partition("=")
        if not sign:
            raise ConfigurationError(
                f"{assignment!r} sets nothing", path=WHERE, hint="Write it as retention.keep_daily_days=30."
            )
        for section, values in setting_layer(key.strip(), text, for_agent=for_agent).items():
            changed.setdefault(section, {}).update(values)
    return changed


def same_layer(policy: FolderPolicy | AgentPolicy, layer: Layer) -> Layer:
    """Give what a layer sets with each value in its one spelling.

    Args:
        policy: what holds with the layer.
        layer: what it sets.
    """
    whole = agent_layer(policy) if isinstance(policy, AgentPolicy) else folder_layer(policy)
    return {
        section: {name: whole[section][name] for name in names} for section, names in layer.items() if names
    }


def value_words(value: SettingValue) -> str:
    """Say a value as it is typed: on and off for a switch."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value)


def _unset(layer: Layer, name: str, *, for_agent: bool) -> None:
    fields = AGENT_FIELDS + FOLDER_FIELDS if for_agent else FOLDER_FIELDS
    if name in {field.section for field in fields}:
        layer.pop(name, None)
        return
    field = find_field(fields, name, WHERE)
    section = layer.get(field.section, {})
    section.pop(field.name, None)
    if not section:
        layer.pop(field.section, None)
