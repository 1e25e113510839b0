"""The demonstration as lines: for a log, or as JSON."""

# ruff: noqa: D102 - `demo_screen.Screen` describes these methods

from __future__ import annotations

from typing import Self

from rich.console import Console

from ops.chain_picture import draw_chain
from ops.demo_screen import Proof, Step
from ops.show import print_json, size_words
from storage.chain import Chain


class PlainScreen:
    """Lines for a log."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False, soft_wrap=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def say(self, words: str, *, aside: bool = False) -> None:
        if not aside:
            self._console.print(words)

    def day(self, title: str) -> None:
        self._console.print(f"\n{title}")

    def image(self, step: Step) -> None:
        verb = "rolled up" if step.kind == "daily" else "captured"
        self._console.print(
            f"  {step.at:%H:%M}  {verb:<9}  {step.name:<26} {size_words(step.stored_bytes):>9}  {step.about}"
        )

    def state(self, name: str, state: str, seconds: float) -> None:
        self._console.print(f"         {state:<9}  {name:<26} {seconds:>7.2f} s after it was written")

    def rolled(self, text: str) -> None:
        self._console.print(f"         standby    {text}")

    def chain(self, chain: Chain) -> None:
        self._console.print("\nThe chain now:\n")
        draw_chain(chain, None, self._console)
        self._console.print()

    def proof(self, proof: Proof) -> None:
        verdict = "proven" if proof.holds else "WRONG"
        self._console.print(proof.title)
        self._console.print(f"  from      {', '.join(proof.images)}")
        self._console.print(f"  captured  sha256 {proof.expected}")
        self._console.print(f"  restored  sha256 {proof.found}")
        self._console.print(f"  e2fsck    {'clean' if proof.clean else 'FAULTS'}")
        self._console.print(f"  {verdict}")

    def result(self, *, good: bool, words: str, seconds: float) -> None:
        self._console.print(f"\n{'OK' if good else 'FAILED'}: {words} ({seconds:.0f} s)")


class JsonScreen:
    """One JSON object a line."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def say(self, words: str, *, aside: bool = False) -> None:
        if not aside:
            print_json({"status": "doing", "reason": words})

    def day(self, title: str) -> None:
        print_json({"status": "day", "reason": title})

    def image(self, step: Step) -> None:
        print_json(
            {
                "path": step.name,
                "kind": step.kind,
                "number": step.number,
                "time": step.at.isoformat(),
                "stored_bytes": step.stored_bytes,
                "changed_bytes": step.changed_bytes,
                "status": "consolidated" if step.kind == "daily" else "captured",
                "reason": step.about,
            }
        )

    def state(self, name: str, state: str, seconds: float) -> None:
        print_json({"path": name, "status": state, "after_s": round(seconds, 3)})

    def rolled(self, text: str) -> None:
        print_json({"status": "rolled_on", "reason": text})

    def chain(self, chain: Chain) -> None:
        for image in chain.images:
            print_json(
                {
                    "path": image.path.name,
                    "kind": image.kind,
                    "stored_bytes": image.stored_bytes,
                    "status": "kept",
                }
            )

    def proof(self, proof: Proof) -> None:
        print_json(
            {
                "disk": proof.disk or None,
                "number": proof.number,
                "time": proof.taken_at.isoformat(),
                "images": list(proof.images),
                "expected": proof.expected,
                "found": proof.found,
                "e2fsck": "clean" if proof.clean else "faults",
                "status": "proven" if proof.holds else "wrong",
                "after_s": round(proof.seconds, 3),
            }
        )

    def result(self, *, good: bool, words: str, seconds: float) -> None:
        print_json({"status": "ok" if good else "failed", "reason": words, "after_s": round(seconds, 3)})
