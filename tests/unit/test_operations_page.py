"""The operations page says of settings what the program goes by."""

from __future__ import annotations

from pathlib import Path

from ops.settings_page import settings_table

PAGE = Path(__file__).resolve().parents[2] / "docs" / "operations.md"


def test_the_table_of_settings_is_the_programs_own():
    _, _, rest = PAGE.read_text().partition("<!-- settings:")
    _, _, rest = rest.partition("-->")
    table, end, _ = rest.partition("<!-- end of settings -->")
    assert end, "the page has lost the marks around its table of settings"
    assert table.strip() == settings_table(), "make it anew with ops.settings_page.settings_table"
