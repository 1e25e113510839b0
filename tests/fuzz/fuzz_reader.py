"""Fuzzes everything that reads images, for a while or a number of cases; ends with 1 when something came out.

    python -m tests.fuzz.fuzz_reader [--seconds N] [--cases N] [--seed N] [--blind] [--again FILE]

With atheris the fuzzer sees which lines a case reaches, and goes on from those that reach new ones. Without it, or
with --blind, cases are drawn at random from the seed alone, the same ones in every run.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import random
import resource
import shutil
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
ROUND_S = 180


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
    tell([tally(runner, done, time.monotonic() - begin)])
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
            (home / "tally").write_text(json.dumps(tally(runner, done, time.monotonic() - begin)))

    found.mkdir(exist_ok=True)
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


def tally(runner, done: int, taken_s: float) -> dict[str, float]:  # type: ignore[no-untyped-def]
    from tests.fuzz.case import peak_bytes

    return {"cases": done, "seconds": taken_s, **runner.verdicts, "peak_mib": peak_bytes() >> 20}


def tell(tallies: list[dict[str, float]]) -> None:
    """Print what was done."""
    total = {name: sum(each[name] for each in tallies) for name in ("cases", "seconds", "good", "bad")}
    print(
        f"{total['cases']:,.0f} cases in {total['seconds']:.0f} s, {total['good']:,.0f} spoilt images still good, "
        f"{total['bad']:,.0f} bad, at most {max(each['peak_mib'] for each in tallies):.0f} MiB",
        flush=True,
    )


def guide(asked: argparse.Namespace, home: Path) -> int:
    """Fuzz with coverage in processes of their own, since libFuzzer never gives one back, and keeps growing itself."""
    tallies: list[dict[str, float]] = []
    end = time.monotonic() + asked.seconds
    while (left_s := end - time.monotonic()) >= 1:
        command = [sys.executable, "-m", "tests.fuzz.fuzz_reader", "--guided-in", str(home)]
        command += ["--seconds", str(min(left_s, ROUND_S)), "--seed", str(asked.seed + len(tallies))]
        code = subprocess.run(command, check=False).returncode
        if (home / "tally").exists():
            tallies.append(json.loads((home / "tally").read_text()))
            (home / "tally").unlink()
        if code != 0 or not tallies:
            return code or 1
        shutil.rmtree(home / "images")
    tell(tallies)
    return 0


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

        with atheris.instrument_imports(
            include=["storage", "hsr", "policies"], exclude=["storage.kernels", "storage.frame_kernels"]
        ):
            import tests.fuzz.case  # noqa: F401
        return play(asked, asked.guided_in)
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(prefix="rollforward-fuzz-", dir=memory) as folder:
        guided = not asked.blind and not asked.again and importlib.util.find_spec("atheris") is not None
        return guide(asked, Path(folder)) if guided else play(asked, Path(folder))


if __name__ == "__main__":
    sys.exit(main())
