"""Settings: what is built in, what is laid over it, and how what is wrong is told."""

from __future__ import annotations

import tomllib
from dataclasses import fields
from datetime import time

import pytest

from policies.calendar import LAST_WEEK, MonthEnd, Weekday
from policies.errors import ConfigurationError
from policies.folder_policy import (
    AGENT_FIELDS,
    FOLDER_FIELDS,
    AgentPolicy,
    FolderPolicy,
    agent_layer,
    folder_layer,
    parse_agent_policy,
    parse_folder_policy,
    setting_layer,
    setting_of,
)


def test_what_the_guide_has_is_built_in():
    policy = FolderPolicy()
    assert policy.verification.verify_new
    assert (policy.verification.reverify, policy.verification.reverify_days) == (True, 7)
    assert policy.verification.cpu_percent is None
    assert policy.consolidation.enabled
    assert policy.consolidation.week_end is Weekday.SATURDAY
    assert policy.consolidation.month_end == MonthEnd(31)
    assert not policy.consolidation.rolling
    retention = policy.retention
    assert (retention.keep_intraday_days, retention.keep_daily_days, retention.keep_weekly_days) == (
        7,
        15,
        90,
    )
    assert not retention.move_to_incrementals
    assert not retention.expire_monthlies
    agent = AgentPolicy()
    assert (agent.control.enabled, agent.control.at) == (True, time(0, 0))
    assert agent.performance.cpu_percent == 50


@pytest.mark.parametrize("policy", [FolderPolicy(), AgentPolicy()])
def test_the_table_and_the_values_name_the_same_settings(policy):
    table = FOLDER_FIELDS if isinstance(policy, FolderPolicy) else AGENT_FIELDS
    sections = [field.name for field in fields(policy) if field.name != "folders"]
    keys = {f"{section}.{one.name}" for section in sections for one in fields(getattr(policy, section))}
    assert keys == {row.key for row in table}
    for row in table:
        assert getattr(getattr(policy, row.section), row.name) == row.default
        assert row.meaning


def test_layers_lie_over_each_other():
    agent = parse_agent_policy(
        tomllib.loads("""
            [control]
            at = "02:30"
            [performance]
            cpu_percent = 25
            [retention]
            keep_daily_days = 30
            keep_weekly_days = 60
            [consolidation]
            month_end = "last friday"
        """)
    )
    assert (agent.control.at, agent.performance.cpu_percent) == (time(2, 30), 25)
    folder = parse_folder_policy({"retention": {"keep_daily_days": 20}}, agent.folders)
    retention = folder.retention
    assert (retention.keep_intraday_days, retention.keep_daily_days, retention.keep_weekly_days) == (
        7,
        20,
        60,
    )
    assert folder.consolidation.month_end == MonthEnd(weekday=Weekday.FRIDAY, week=LAST_WEEK)
    assert folder_layer(folder, agent.folders) == {"retention": {"keep_daily_days": 20}}
    assert folder_layer(agent.folders, FolderPolicy()) == {
        "retention": {"keep_daily_days": 30, "keep_weekly_days": 60},
        "consolidation": {"month_end": "last friday"},
    }


def test_a_local_time_of_toml_is_a_time_of_day():
    assert parse_agent_policy(tomllib.loads("control.at = 23:59:00")).control.at == time(23, 59)


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("verification.verify_new", "off", False),
        ("verification.verify_new", "Yes", True),
        ("verification.reverify_days", "1", 1),
        ("verification.reverify_days", "30", 30),
        ("verification.cpu_percent", "100", 100),
        ("verification.cpu_percent", "off", None),
        ("consolidation.week_end", "Sunday", Weekday.SUNDAY),
        ("consolidation.month_end", "15", MonthEnd(15)),
        ("consolidation.month_end", "Last Friday", MonthEnd(weekday=Weekday.FRIDAY)),
        ("consolidation.month_end", "fourth monday", MonthEnd(weekday=Weekday.MONDAY, week=4)),
        ("retention.keep_intraday_days", " 3650 ", 3650),
        ("notices.inactivity_days", "off", None),
        ("control.at", "06:05", time(6, 5)),
    ],
)
def test_what_a_person_types(key, text, value):
    policy = parse_agent_policy(setting_layer(key, text, for_agent=True))
    row, plain = setting_of(policy, key)
    section = getattr(policy if row in AGENT_FIELDS else policy.folders, row.section)
    assert getattr(section, row.name) == value
    assert parse_agent_policy({row.section: {row.name: plain}}) == policy
    assert parse_agent_policy(agent_layer(policy)) == policy
    assert parse_agent_policy(agent_layer(policy, AgentPolicy())) == policy


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("verification.reverify_days", 0, "a whole number from 1 to 30"),
        ("verification.reverify_days", 31, "a whole number from 1 to 30"),
        ("verification.reverify_days", 7.0, "a whole number from 1 to 30"),
        ("verification.reverify_days", True, "a whole number from 1 to 30"),
        ("verification.reverify_days", "7", "a whole number from 1 to 30"),
        ("verification.reverify_days", "off", "a whole number from 1 to 30"),
        ("verification.cpu_percent", 101, "a whole number from 1 to 100, or off"),
        ("verification.verify_new", 1, "true or false"),
        ("verification.verify_new", "yes", "true or false"),
        ("consolidation.week_end", "someday", "a weekday, such as saturday"),
        ("consolidation.week_end", 6, "a weekday"),
        ("consolidation.month_end", 0, "a day from 1 to 31"),
        ("consolidation.month_end", 32, "a day from 1 to 31"),
        ("consolidation.month_end", True, "a day from 1 to 31"),
        ("consolidation.month_end", "fifth friday", '"last friday"'),
        ("consolidation.month_end", "friday", '"last friday"'),
        ("consolidation.month_end", [1], '"last friday"'),
        ("retention.keep_intraday_days", -1, "a whole number from 1 to 3650"),
        ("retention.keep_daily_days", None, "a whole number from 1 to 3650"),
        ("notices.low_space_percent", 100, "a whole number from 1 to 99, or off"),
        ("control.at", "24:00", "a time of day from 00:00 to 23:59"),
        ("control.at", "6:05", "a time of day"),
        ("control.at", "12:60", "a time of day"),
        ("control.at", "\u0661\u0662:\u0660\u0660", "a time of day"),
        ("control.at", 6, "a time of day"),
        ("performance.cpu_percent", 0, "a whole number from 1 to 100"),
    ],
)
def test_an_error_names_setting_value_and_what_is_allowed(key, value, allowed):
    section, name = key.split(".")
    with pytest.raises(ConfigurationError) as caught:
        parse_agent_policy({section: {name: value}}, where="agent.toml")
    assert key in caught.value.message
    assert repr(value) in caught.value.message
    assert allowed in caught.value.message
    assert caught.value.path == "agent.toml"
    assert caught.value.hint


@pytest.mark.parametrize("text", ["", "7 days", "1" * 30, "\u0667", "-1", "1e1", "0x7"])
def test_what_is_typed_wrong_is_told_too(text):
    with pytest.raises(ConfigurationError, match=r"retention\.keep_daily_days cannot be"):
        setting_layer("retention.keep_daily_days", text)


@pytest.mark.parametrize(
    ("layer", "hint"),
    [
        ({"retention": {"keep_dayly_days": 3}}, "Did you mean retention.keep_daily_days?"),
        ({"retntion": {}}, "Did you mean retention?"),
        ({"zzz": {}}, "There are: "),
    ],
)
def test_a_setting_that_there_is_not(layer, hint):
    with pytest.raises(ConfigurationError, match="there is no setting") as caught:
        parse_folder_policy(layer)
    assert caught.value.hint is not None
    assert hint in caught.value.hint


def test_a_section_that_is_none_and_an_agents_setting_for_a_folder():
    with pytest.raises(ConfigurationError, match="retention is a section of settings, not 7"):
        parse_folder_policy({"retention": 7})
    with pytest.raises(ConfigurationError, match="there is no setting 'control'"):
        parse_folder_policy({"control": {"at": "00:00"}})
    with pytest.raises(ConfigurationError, match=r"there is no setting 'control\.at'"):
        setting_layer("control.at", "00:00")
    with pytest.raises(ConfigurationError, match=r"there is no setting 'control\.at'"):
        setting_of(FolderPolicy(), "control.at")
