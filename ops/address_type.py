"""The type of options that take an address to listen on."""

from __future__ import annotations

import ipaddress

import click


class AddressType(click.ParamType[tuple[str, int]]):
    """HOST:PORT, the host a number; [::1]:PORT for IPv6."""

    name = "host:port"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, int]:
        """Read an address."""
        host, colon, port = str(value).rpartition(":")
        try:
            address = ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
            number = int(port)
        except ValueError:
            number = -1
        if not colon or not 0 <= number < 1 << 16:
            self.fail(f"{value!r} is no address; write one like 127.0.0.1:10809 or [::1]:10809", param, ctx)
        return str(address), number
