"""What a managed folder is told to do: when it verifies, rolls up, retires and gives notice.

Settings are few and named in one table each, `FOLDER_FIELDS` and `AGENT_FIELDS`: whoever asks, shows or stores one
takes its name, range and meaning from there. They come in layers: what is built in, what is set for the agent,
what is set for a folder. A layer is a plain mapping of sections, such as a TOML file gives, and holds only what it
sets:

    [retention]
    keep_daily_days = 30

Settings that can be switched off take "off"; a weekday takes its name; the end of a month takes a day from 1 to 31,
or words such as "last friday".
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import time
from typing import TypeVar

from policies.calendar import LAST_DAY_OF_MONTH, MonthEnd, PeriodEnds, Weekday
from policies.setting_field import SettingField, SettingKind, SettingValue, find_field, read_layer


@dataclass(frozen=True, slots=True)
class VerificationPolicy:
    """When images are read back.

    Attributes:
        verify_new: whether a new image is verified as soon as it has landed.
        reverify: whether images are verified again from time to time.
        reverify_days: within how many days each is verified again.
        cpu_percent: how much of the machine's processors verification may take; None for the agent's share.
    """

    verify_new: bool = True
    reverify: bool = True
    reverify_days: int = 7
    cpu_percent: int | None = None


@dataclass(frozen=True, slots=True)
class ConsolidationPolicy:
    """What is rolled up, and when.

    Attributes:
        enabled: whether the folder's chains are rolled up, and aged out, at all.
        week_end: the last day of a week.
        month_end: the last day of a month.
        rolling: whether the oldest monthlies are rolled up further.
        rolling_after_months: how old, in months, a monthly is before it is.
        rolling_yearly: whether each calendar year is rolled up by itself; otherwise one rolling image grows.
    """

    enabled: bool = True
    week_end: Weekday = Weekday.SATURDAY
    month_end: MonthEnd = LAST_DAY_OF_MONTH
    rolling: bool = False
    rolling_after_months: int = 12
    rolling_yearly: bool = True

    @property
    def period_ends(self) -> PeriodEnds:
        """With which days weeks and months end."""
        return PeriodEnds(self.week_end, self.month_end)


@dataclass(frozen=True, slots=True)
class RetentionPolicy:
    """How long images stay once a higher tier holds all that they do.

    Attributes:
        keep_intraday_days: days that incrementals stay once a daily was made of them and verified.
        keep_daily_days: days that dailies stay once a weekly was.
        keep_weekly_days: days that weeklies stay once a monthly was.
        expire_monthlies: whether monthlies go once a rolling image holds them; otherwise they stay for good.
        move_to_incrementals: whether images are moved into the folder `Incrementals` in place of being deleted.
    """

    keep_intraday_days: int = 7
    keep_daily_days: int = 15
    keep_weekly_days: int = 90
    expire_monthlies: bool = False
    move_to_incrementals: bool = False


@dataclass(frozen=True, slots=True)
class NoticePolicy:
    """When a folder is worth a notice though nothing failed.

    Attributes:
        inactivity_days: days without a new image; None for never.
        low_space_percent: free space of the folder's device, in percent of its size, below which it is low; None for
            never.
    """

    inactivity_days: int | None = 3
    low_space_percent: int | None = 10


@dataclass(frozen=True, slots=True)
class FolderPolicy:
    """All that a managed folder is told to do, every layer taken together."""

    verification: VerificationPolicy = VerificationPolicy()
    consolidation: ConsolidationPolicy = ConsolidationPolicy()
    retention: RetentionPolicy = RetentionPolicy()
    notices: NoticePolicy = NoticePolicy()


@dataclass(frozen=True, slots=True)
class ControlPolicy:
    """When the agent does its daily work: verifying again, rolling up, retiring.

    Attributes:
        enabled: whether it does so by itself; otherwise only when a person starts it.
        at: the time of day, in each folder's time zone.
    """

    enabled: bool = True
    at: time = time(0, 0)


@dataclass(frozen=True, slots=True)
class PerformancePolicy:
    """What the agent may take of the machine.

    Attributes:
        cpu_percent: how much of the machine's processors all work together may take.
    """

    cpu_percent: int = 50


@dataclass(frozen=True, slots=True)
class AgentPolicy:
    """What the agent is told to do, and what its folders do unless they are told otherwise."""

    control: ControlPolicy = ControlPolicy()
    performance: PerformancePolicy = PerformancePolicy()
    folders: FolderPolicy = FolderPolicy()


DEFAULT_FOLDER_POLICY = FolderPolicy()
"""What a folder does where nothing is set."""

DEFAULT_AGENT_POLICY = AgentPolicy()
"""What the agent does where nothing is set."""

_Policy = TypeVar("_Policy", FolderPolicy, AgentPolicy)

_SWITCH = SettingKind.SWITCH
_NUMBER = SettingKind.NUMBER

FOLDER_FIELDS: tuple[SettingField, ...] = (
    SettingField(
        "verification", "verify_new", _SWITCH, True, "a new image is verified as soon as it has landed"
    ),
    SettingField("verification", "reverify", _SWITCH, True, "images are verified again from time to time"),
    SettingField(
        "verification", "reverify_days", _NUMBER, 7, "days within which each is verified again", 1, 30
    ),
    SettingField(
        "verification",
        "cpu_percent",
        _NUMBER,
        None,
        "percent of the machine's processors that verification may take; off: the agent's share",
        1,
        100,
        can_be_off=True,
    ),
    SettingField("consolidation", "enabled", _SWITCH, True, "chains are rolled up and aged out"),
    SettingField(
        "consolidation", "week_end", SettingKind.WEEKDAY, Weekday.SATURDAY, "the last day of a week"
    ),
    SettingField(
        "consolidation",
        "month_end",
        SettingKind.MONTH_END,
        LAST_DAY_OF_MONTH,
        "the last day of a month",
        1,
        31,
    ),
    SettingField("consolidation", "rolling", _SWITCH, False, "the oldest monthlies are rolled up further"),
    SettingField(
        "consolidation",
        "rolling_after_months",
        _NUMBER,
        12,
        "months after which a monthly is rolled up further",
        1,
        1200,
    ),
    SettingField(
        "consolidation",
        "rolling_yearly",
        _SWITCH,
        True,
        "each calendar year is rolled up by itself; off: one rolling image grows",
    ),
    SettingField(
        "retention",
        "keep_intraday_days",
        _NUMBER,
        7,
        "days that incrementals stay once a verified daily holds them",
        1,
        3650,
    ),
    SettingField(
        "retention",
        "keep_daily_days",
        _NUMBER,
        15,
        "days that dailies stay once a verified weekly holds them",
        1,
        3650,
    ),
    SettingField(
        "retention",
        "keep_weekly_days",
        _NUMBER,
        90,
        "days that weeklies stay once a verified monthly holds them",
        1,
        3650,
    ),
    SettingField(
        "retention",
        "expire_monthlies",
        _SWITCH,
        False,
        "monthlies go once a verified rolling image holds them",
    ),
    SettingField(
        "retention",
        "move_to_incrementals",
        _SWITCH,
        False,
        "images are moved into Incrementals, where nothing can be restored from, in place of being deleted",
    ),
    SettingField(
        "notices", "inactivity_days", _NUMBER, 3, "days without a new image", 1, 365, can_be_off=True
    ),
    SettingField(
        "notices",
        "low_space_percent",
        _NUMBER,
        10,
        "percent of the device below which free space is low",
        1,
        99,
        can_be_off=True,
    ),
)
"""Every setting that a folder has; the agent's layer sets them for all folders."""

AGENT_FIELDS: tuple[SettingField, ...] = (
    SettingField("control", "enabled", _SWITCH, True, "the daily work is done by itself"),
    SettingField(
        "control", "at", SettingKind.TIME, time(0, 0), "time of day of the daily work, in each folder's zone"
    ),
    SettingField(
        "performance",
        "cpu_percent",
        _NUMBER,
        50,
        "percent of the machine's processors that all work together may take",
        1,
        100,
    ),
)
"""Settings that only the agent has."""


def parse_folder_policy(
    layer: Mapping[str, object],
    over: FolderPolicy = DEFAULT_FOLDER_POLICY,
    *,
    where: str = "a folder's settings",
) -> FolderPolicy:
    """Lay the settings of one layer over those below it.

    Args:
        layer: sections of settings, as TOML or JSON give them; only what is set.
        over: the layer below: the agent's settings for its folders, or what is built in.
        where: what the layer is, for errors.

    Returns:
        The settings that hold.

    Raises:
        ConfigurationError: there is no such setting, or its value is of the wrong kind or out of range; the message
            names the setting, the value and what is allowed.
    """
    return _with_layer(over, FOLDER_FIELDS, layer, where)


def parse_agent_policy(
    layer: Mapping[str, object],
    over: AgentPolicy = DEFAULT_AGENT_POLICY,
    *,
    where: str = "the agent's settings",
) -> AgentPolicy:
    """Lay the agent's settings, those for all its folders among them, over what is built in.

    Args:
        layer: sections of settings, as TOML or JSON give them; only what is set.
        over: the layer below.
        where: what the layer is, for errors.

    Returns:
        The settings that hold.

    Raises:
        ConfigurationError: as of `parse_folder_policy`.
    """
    own_sections = {field.section for field in AGENT_FIELDS}
    own = {name: section for name, section in layer.items() if name in own_sections}
    others = {name: section for name, section in layer.items() if name not in own_sections}
    folders = parse_folder_policy(others, over.folders, where=where)
    return dataclasses.replace(_with_layer(over, AGENT_FIELDS, own, where), folders=folders)


def folder_layer(
    policy: FolderPolicy, over: FolderPolicy | None = None
) -> dict[str, dict[str, SettingValue]]:
    """Write settings as a layer; `parse_folder_policy` reads it back.

    Args:
        policy: the settings.
        over: the layer below: what is the same there is left out. None to write all.

    Returns:
        Sections of plain values, as TOML and JSON take them.
    """
    return _as_layer(policy, over, FOLDER_FIELDS)


def agent_layer(policy: AgentPolicy, over: AgentPolicy | None = None) -> dict[str, dict[str, SettingValue]]:
    """Write the agent's settings as a layer; `parse_agent_policy` reads it back.

    Args:
        policy: the settings.
        over: the layer below: what is the same there is left out. None to write all.

    Returns:
        Sections of plain values, as TOML and JSON take them.
    """
    own = _as_layer(policy, over, AGENT_FIELDS)
    return own | _as_layer(policy.folders, None if over is None else over.folders, FOLDER_FIELDS)


def setting_of(
    policy: FolderPolicy | AgentPolicy, key: str, *, where: str = "the settings"
) -> tuple[SettingField, SettingValue]:
    """Look one setting up.

    Args:
        policy: the settings.
        key: its name with its section, such as "retention.keep_daily_days".
        where: what is looked through, for errors.

    Returns:
        What the table says of it, and its value as a plain one.

    Raises:
        ConfigurationError: there is no such setting.
    """
    holder: FolderPolicy | AgentPolicy = policy
    if isinstance(policy, FolderPolicy):
        found = find_field(FOLDER_FIELDS, key, where)
    else:
        found = find_field(AGENT_FIELDS + FOLDER_FIELDS, key, where)
        holder = policy if found in AGENT_FIELDS else policy.folders
    section = getattr(holder, found.section)
    return found, found.plain(getattr(section, found.name))


def setting_layer(key: str, text: str, *, for_agent: bool = False) -> dict[str, dict[str, SettingValue]]:
    """Read a setting that a person typed.

    Args:
        key: its name with its section, such as "retention.keep_daily_days".
        text: its value in words, such as "30", "off" or "last friday".
        for_agent: whether the agent's own settings may be named too.

    Returns:
        A layer that sets it.

    Raises:
        ConfigurationError: there is no such setting, or the words are no value that it may take.
    """
    found = find_field(FOLDER_FIELDS + AGENT_FIELDS if for_agent else FOLDER_FIELDS, key, "the command line")
    value = found.from_text(text, "the command line")
    return {found.section: {found.name: found.plain(value)}}


def _with_layer(
    over: _Policy, fields: tuple[SettingField, ...], layer: Mapping[str, object], where: str
) -> _Policy:
    sections = {
        section: dataclasses.replace(getattr(over, section), **values)
        for section, values in read_layer(fields, layer, where).items()
    }
    return dataclasses.replace(over, **sections)


def _as_layer(
    policy: _Policy, over: _Policy | None, fields: tuple[SettingField, ...]
) -> dict[str, dict[str, SettingValue]]:
    layer: dict[str, dict[str, SettingValue]] = {}
    for field in fields:
        value = getattr(getattr(policy, field.section), field.name)
        if over is None or value != getattr(getattr(over, field.section), field.name):
            layer.setdefault(field.section, {})[field.name] = field.plain(value)
    return layer
