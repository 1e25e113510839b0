"""The four laws, and the others, with a thousand examples each."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.acceptance.conftest import Tell

pytestmark = pytest.mark.acceptance

EXAMPLES = 1000
PROPERTIES = Path(__file__).parents[1] / "property"
LAWS = ("apply", "reach", "consolidate", "retire")


@pytest.mark.parametrize("law", [*LAWS, "cursor", "life"])
def test_law(tell: Tell, law: str) -> None:
    tell(f"the law of {law}", lambda: _examples(PROPERTIES / f"test_law_{law}.py"))


def _examples(file: Path) -> str:
    command = [sys.executable, "-m", "pytest", str(file), "-q", "-p", "no:cacheprovider", "-n", "0"]
    done = subprocess.run(
        [*command, "--hypothesis-show-statistics"],
        env={**os.environ, "HYPOTHESIS_PROFILE": "full"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:]
    blocks = re.findall(
        r"^(\S+::\S+?):\n(.*?)\n\s+- Stopped because", done.stdout, flags=re.MULTILINE | re.DOTALL
    )
    assert blocks, done.stdout[-3000:]
    passed = {name: sum(map(int, re.findall(r"(\d+) passing,", text))) for name, text in blocks}
    few = {name: count for name, count in passed.items() if count < EXAMPLES}
    assert not few, f"fewer than {EXAMPLES} examples: {few}\n{done.stdout[-3000:]}"
    return f"{len(passed)} properties, {min(passed.values()):,} examples each at least"
