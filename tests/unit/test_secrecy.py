"""A process that has a key or a password leaves no core dump."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import ctypes, resource, sys
from pathlib import Path
_, hard = resource.getrlimit(resource.RLIMIT_CORE)
resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
before = ctypes.CDLL(None).prctl(3, 0, 0, 0, 0)
exec(sys.argv[1])
soft, kept = resource.getrlimit(resource.RLIMIT_CORE)
print(before, ctypes.CDLL(None).prctl(3, 0, 0, 0, 0), soft, kept == hard)
"""


@pytest.mark.parametrize(
    ("work", "dumpable"),
    [
        ("import storage.keys, ops.passwords", 1),
        ("from storage.keys import ChainKey; ChainKey.new(bytes(16))", 0),
        ("from ops.passwords import read_password; read_password(Path('/dev/fd/0'))", 0),
    ],
    ids=["without", "key", "password"],
)
def test_no_core_dumps(work, dumpable):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, work], input="password", capture_output=True, text=True, check=True
    )
    before, now, soft, hard_kept = done.stdout.split()
    assert (before, now, hard_kept) == ("1", str(dumpable), "True")
    assert dumpable or soft == "0"
