"""The dead-man's switch: an address is called while all is well, so that somebody else notices when it is not.

Whoever is called expects it to come again, and raises the alarm when it does not: also when this machine is gone.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import structlog

from ops.notify.http_call import call
from ops.notify.settings import AliveSettings
from ops.observe.health import Health
from policies.errors import DeliveryError

_log = structlog.get_logger("herald")


class AliveCaller:
    """Calls an address again and again, in a thread of its own, as long as the agent is well.

    Args:
        settings: whom to call, and how often.
        health: looks at the parts of the agent.
    """

    def __init__(self, settings: AliveSettings, health: Callable[[], Health]) -> None:
        self._settings = settings
        self._health = health
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="alive", daemon=True)
        self._went_well = True

    def start(self) -> None:
        """Begin to call, at once."""
        self._thread.start()

    def stop(self) -> None:
        """Call no more."""
        self._ended.set()

    def call_if_well(self) -> bool:
        """Call once, unless the agent is unwell; tell whether it was called."""
        found = self._health()
        if not found.is_well:
            self._log_once("no call that all is well", [wrong for wrong in found.parts.values() if wrong])
            return False
        timeout_s = min(self._settings.every_s, 30)
        try:
            call("GET", self._settings.url, timeout_s=timeout_s, ca_file=self._settings.ca_file)
        except DeliveryError as error:
            self._log_once("the call that all is well did not arrive", [error.reason])
            return False
        if not self._went_well:
            _log.info("called again that all is well")
        self._went_well = True
        return True

    def _run(self) -> None:
        self.call_if_well()
        while not self._ended.wait(self._settings.every_s):
            self.call_if_well()

    def _log_once(self, event: str, reasons: list[str]) -> None:
        if self._went_well:
            _log.warning(event, reason="; ".join(reasons))
        self._went_well = False
