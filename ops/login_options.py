"""Credentials on the command line: the user by name, the password from a file or typed in, never an argument."""

from __future__ import annotations

from pathlib import Path

from ops.config_document import Login
from ops.passwords import ask, read_password


def typed_login(user: str, password_file: Path | None) -> Login:
    """Return the credentials that a person gives.

    Args:
        user: whose they are.
        password_file: holds the password; None to have it typed in.

    Raises:
        PasswordError: nobody sits at a terminal to type it in.
        ConfigurationError: the file cannot be used.
    """
    password = read_password(password_file) if password_file else ask(f"Password of {user}", twice=True)
    return Login(user, password=password)
