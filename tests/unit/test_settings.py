"""Settings: defaults, ranges, and the way to child processes."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

import pytest

from ops.settings import NUMBERS, Settings, default_state_dir
from policies.errors import ConfigurationError


def test_the_command_line_comes_before_the_environment():
    environment = {
        "ROLLFORWARD_STATE": "/a",
        "ROLLFORWARD_TIME_ZONE": "Europe/Berlin",
        "REDIS_URL": "redis://r",
    }
    settings = Settings.from_environment(environment, state_dir="/b", time_zone=None)
    assert settings.state_dir == Path("/b")
    assert settings.catalogue_url == "sqlite:////b/catalogue.sqlite"
    assert settings.time_zone == "Europe/Berlin"
    assert settings.redis_url == "redis://r"


def test_children_get_the_same_settings():
    chosen = Settings.from_environment(
        {"ROLLFORWARD_SETTLE_S": "2.5", "ROLLFORWARD_WORKERS": "3"}, state_dir="/ä b", clock="file:/x"
    )
    assert Settings.from_environment(chosen.to_environment()) == chosen
    assert chosen.seconds("settle_s") == timedelta(seconds=2.5)


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("text", ["-1", "1e9", "many", "nan"])
def test_numbers_out_of_range_name_their_variable(name: str, text: str):
    number = NUMBERS[name]
    with pytest.raises(ConfigurationError, match=number.variable) as caught:
        Settings.from_environment({number.variable: text})
    assert caught.value.expected == f"{number.least:g} to {number.most:g}"


def test_workers_are_counted_in_whole_numbers():
    with pytest.raises(ConfigurationError, match="ROLLFORWARD_WORKERS"):
        Settings.from_environment({"ROLLFORWARD_WORKERS": "1.5"})


def test_time_zones_are_checked_and_found():
    with pytest.raises(ConfigurationError, match="no such time zone"):
        Settings.from_environment({"ROLLFORWARD_TIME_ZONE": "Mars/Base"})
    assert Settings.from_environment({"TZ": ":Europe/Berlin"}).time_zone == "Europe/Berlin"
    assert Settings.from_environment({"TZ": "nonsense"}).time_zone == "UTC"
    assert Settings.from_environment({}).time_zone


def test_each_catalogue_has_its_own_names_in_redis():
    one = Settings.from_environment({}, catalogue_url="sqlite:////a")
    two = Settings.from_environment({}, catalogue_url="sqlite:////b")
    assert one.namespace != two.namespace
    assert one.namespace == Settings.from_environment({}, catalogue_url="sqlite:////a").namespace


def test_state_goes_where_it_belongs():
    if os.geteuid() == 0:
        assert default_state_dir({}) == Path("/var/lib/rollforward")
    else:
        assert default_state_dir({"XDG_STATE_HOME": "/s"}) == Path("/s/rollforward")
