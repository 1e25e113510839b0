"""Fuzzes everything that reads images, for a while or a number of cases; ends with 1 when something came out.

    python -m tests.fuzz.fuzz_reader [--seconds N] [--cases N] [--seed N] [--blind] [--again FILE]

With atheris the fuzzer sees which lines a case reaches, and goes on from those that reach new ones. Without it, or
with --blind, cases are drawn at random from the seed alone, the same ones in every run.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

ROOM_BYTES = 3 << 30
"""Addresses left to ask for: buffers, stacks and arenas of threads; a size taken from a file has no room here."""

CASE_BYTES = 400
MEMORY_MIB = 512


def limit_addresses() -> None:
    """Let asking for absurd amounts of memory fail at once."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM_BYTES, used + ROOM_BYTES))


def keep(content: bytes) -> Path:
    """Write down a case that went wrong."""
    kept = Path(tempfile.mkdtemp(prefix="rollforward-fuzz-"), "case")
    kept.write_bytes(content)
    return kept


def run_blind(runner, seed: int, seconds: float, cases: int) -> int:  # type: ignore[no-untyped-def]
    """Draw cases from a seed."""
    chooser, begin, done = random.Random(seed), time.monotonic(), 0
    while done < cases and time.monotonic() - begin < seconds:
        content = chooser.randbytes(chooser.choice([20, 60, CASE_BYTES]))
        try:
            runner.run(content)
        except Exception:  # noqa: BLE001 - whatever comes out is what is looked for
            traceback.print_exc()
            print(f"case {done}: run it again with --again {keep(content)}", file=sys.stderr)
            return 1
        done += 1
    print(tally(runner, done, time.monotonic() - begin), flush=True)
    return 0


def run_guided(runner, seed: int, seconds: float, home: Path) -> None:  # type: ignore[no-untyped-def]
    """Let libFuzzer choose cases by what they reach; it ends the process by itself."""
    import atheris

    found, done, begin = home / "found", 0, time.monotonic()

    def one(content: bytes) -> None:
        nonlocal done
        done += 1
        try:
            runner.run(content)
        except Exception:
            print(f"run it again with --again {keep(content)}", file=sys.stderr)
            raise
        if done % 20 == 0:
            (home / "tally").write_text(tally(runner, done, time.monotonic() - begin))

    found.mkdir()
    chooser = random.Random(seed)
    for number in range(100):
        (found / f"seed-{number}").write_bytes(chooser.randbytes(CASE_BYTES))
    options = [
        f"-max_total_time={int(seconds)}",
        f"-seed={seed + 1}",
        f"-max_len={CASE_BYTES}",
        "-timeout=60",
    ]
    options += [f"-rss_limit_mb={MEMORY_MIB}", "-verbosity=0", f"-artifact_prefix={home}/"]
    atheris.Setup([sys.argv[0], *options, str(found)], one)
    atheris.Fuzz()


def tally(runner, done: int, taken_s: float) -> str:  # type: ignore[no-untyped-def]
    from tests.fuzz.case import peak_bytes

    return (
        f"{done:,} cases in {taken_s:.0f} s, {runner.verdicts['good']:,} spoilt images still good, "
        f"{runner.verdicts['bad']:,} bad, at most {peak_bytes() >> 20} MiB"
    )


def guide(asked: argparse.Namespace, home: Path) -> int:
    """Fuzz with coverage in a process of its own, since libFuzzer never gives one back."""
    command = [sys.executable, "-m", "tests.fuzz.fuzz_reader", "--guided-in", str(home)]
    command += ["--seconds", str(asked.seconds), "--seed", str(asked.seed)]
    code = subprocess.run(command, check=False).returncode
    if (home / "tally").exists():
        print((home / "tally").read_text(), flush=True)
    return code


def play(asked: argparse.Namespace, home: Path) -> int:
    """Run cases in this process."""
    from tests.fuzz.case import CaseRunner

    runner = CaseRunner(home)
    if asked.again:
        runner.run(asked.again.read_bytes())
        return 0
    runner.run(b"")
    limit_addresses()
    if asked.guided_in:
        run_guided(runner, asked.seed, asked.seconds, home)
    return run_blind(runner, asked.seed, asked.seconds, asked.cases)


def main() -> int:
    """Fuzz."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--cases", type=int, default=10**9)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--blind", action="store_true")
    parser.add_argument("--again", type=Path)
    parser.add_argument("--guided-in", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.guided_in:
        import atheris

        with atheris.instrument_imports(include=["storage", "hsr", "policies"], exclude=["storage.kernels"]):
            import tests.fuzz.case  # noqa: F401
        return play(asked, asked.guided_in)
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(prefix="rollforward-fuzz-", dir=memory) as folder:
        guided = not asked.blind and not asked.again and importlib.util.find_spec("atheris") is not None
        return guide(asked, Path(folder)) if guided else play(asked, Path(folder))


if __name__ == "__main__":
    sys.exit(main())
