"""Rules that the whole house keeps."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("policies", "storage", "hsr", "watcher", "actors", "ops", "bench")
FUNCTION_LINES_MAX = 69


def modules() -> list[Path]:
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def functions(source: str) -> Iterator[tuple[str, int]]:
    """Give each function's name and how many lines it takes, decorators and docstring included."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            assert node.end_lineno is not None
            yield node.name, node.end_lineno - first + 1


def test_the_rule_sees_a_long_function():
    body = "\n".join(f"        a{line} = {line}" for line in range(69))
    source = f"class Longwinded:\n    @staticmethod\n    def speak():\n{body}\n"
    assert dict(functions(source)) == {"speak": 71}


def test_every_package_is_looked_at():
    seen = {path.relative_to(ROOT).parts[0] for path in modules()}
    assert seen >= set(PACKAGES) - {"bench"}


@pytest.mark.parametrize("module", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_functions_fit_a_screen(module: Path):
    long = {name: lines for name, lines in functions(module.read_text()) if lines > FUNCTION_LINES_MAX}
    assert not long, f"functions of {module.relative_to(ROOT)} over {FUNCTION_LINES_MAX} lines: {long}"
