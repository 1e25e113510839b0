"""Work that keeps within its share of the processors: with clocks of its own, and with the real ones."""

from __future__ import annotations

import time

import pytest

from actors.throttle import OWED_S, SAVED_UP_S, Throttle


class Machine:
    """Two processors, and a process whose threads use both while it works."""

    def __init__(self) -> None:
        self.wall_s = 1000.0
        self.cpu_s = 7.0

    def throttle(self, percent: float, workers: int = 1) -> Throttle:
        return Throttle(percent, workers, cpu_s=lambda: self.cpu_s, wall_s=lambda: self.wall_s, processors=2)

    def work(self, seconds: float, threads: int = 2) -> None:
        self.wall_s += seconds
        self.cpu_s += threads * seconds

    def sleep(self, seconds: float) -> bool:
        assert 0 < seconds <= 1
        self.wall_s += seconds
        return False


def run(machine: Machine, throttle: Throttle, chunk_s: float, percent: float | None = None) -> float:
    """Work for some time; return the share that was used, in percent."""
    throttle.pause(percent, machine.sleep)
    wall_s, cpu_s = machine.wall_s, machine.cpu_s
    while machine.wall_s < wall_s + 60 + 10_000 * chunk_s:
        machine.work(chunk_s)
        throttle.pause(percent, machine.sleep)
    return (machine.cpu_s - cpu_s) / (machine.wall_s - wall_s) / 2 * 100


@pytest.mark.parametrize("percent", [1, 10, 25, 50, 99])
@pytest.mark.parametrize("chunk_s", [0.001, 0.02, 0.2])
def test_a_share_is_kept(percent: float, chunk_s: float):
    machine = Machine()
    assert run(machine, machine.throttle(percent), chunk_s) == pytest.approx(percent, rel=0.02)


def test_the_whole_machine_is_never_waited_for():
    machine = Machine()
    assert run(machine, machine.throttle(100), 0.5) == pytest.approx(100)


def test_several_workers_share():
    machine = Machine()
    assert run(machine, machine.throttle(50, workers=4), 0.1) == pytest.approx(12.5, rel=0.02)


def test_a_folder_may_have_less_but_not_more():
    machine = Machine()
    throttle = machine.throttle(40)
    assert run(machine, throttle, 0.1, percent=10) == pytest.approx(10, rel=0.02)
    assert run(machine, throttle, 0.1, percent=90) == pytest.approx(40, rel=0.02)
    throttle.set_percent(20)
    assert run(machine, throttle, 0.1) == pytest.approx(20, rel=0.02)


def test_an_idle_night_is_not_made_up_for():
    machine = Machine()
    throttle = machine.throttle(50)
    throttle.pause(None, machine.sleep)
    machine.wall_s += 8 * 3600
    throttle.pause(None, machine.sleep)
    before_s = machine.wall_s
    machine.work(1)
    throttle.pause(None, machine.sleep)
    assert machine.wall_s - before_s >= 2 - SAVED_UP_S


def test_what_others_used_is_not_owed_for_ever():
    machine = Machine()
    throttle = machine.throttle(80)
    throttle.pause(1, machine.sleep)
    for _ in range(100):
        machine.work(1)
        throttle.pause(None, machine.sleep)
    before_s = machine.wall_s
    throttle.pause(1, machine.sleep)
    assert machine.wall_s - before_s == pytest.approx(OWED_S)


def test_a_sleep_that_is_cut_short_is_left_at_that():
    machine = Machine()
    throttle = machine.throttle(1)
    throttle.pause(None, machine.sleep)
    machine.work(5)
    slept = []
    throttle.pause(None, lambda seconds: not slept.append(seconds))
    assert len(slept) == 1


def test_real_work_does_not_exceed_its_share():
    throttle = Throttle(5, processors=1)
    throttle.pause(None, time.sleep)
    wall_s, cpu_s = time.monotonic(), time.process_time()
    while time.process_time() < cpu_s + 0.1:
        sum(range(20_000))
        throttle.pause(None, time.sleep)
    assert time.process_time() - cpu_s <= (time.monotonic() - wall_s) * 0.05 * 1.15 + 0.02


def test_work_goes_on_even_if_other_threads_take_the_whole_share():
    machine = Machine()
    throttle = machine.throttle(5)

    def sleep_beside_others(seconds: float) -> bool:
        machine.work(seconds, threads=1)
        return False

    machine.work(10)
    for _ in range(3):
        begun_s = machine.wall_s
        throttle.pause(None, sleep_beside_others)
        assert machine.wall_s - begun_s <= OWED_S + 1
