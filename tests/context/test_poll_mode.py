"""Poll mode on every backend: it loses nothing, grows where that pays, and ends where it does not."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time

import pytest

from aioqemu_loop import AioContext
from aioqemu_loop.context import poll_params

from .helpers import rescue, run_until, sleeps


@pytest.fixture
def spinning(fdmon, no_leaks):
    """A context that polls busily for up to 50 us."""
    context = AioContext(fdmon, 50_000)
    yield context
    context.close()


def ping_pong(context, rounds):
    """Let another thread, which spins too, answer at once. Returns the largest poll_ns that was seen."""
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    left = [rounds]
    largest = [0]

    def echo():
        while True:
            try:
                data = theirs.recv(1)
            except BlockingIOError:
                continue
            if not data:
                return
            theirs.send(data)

    def reader():
        ours.recv(1)
        left[0] -= 1
        largest[0] = max(largest[0], context.poll_ns)
        if left[0]:
            ours.send(b"x")

    thread = threading.Thread(target=echo)
    thread.start()
    context.set_fd_handler(ours, reader)
    ours.send(b"x")
    run_until(context, lambda: not left[0], 30)
    context.set_fd_handler(ours)
    ours.close()
    thread.join()
    theirs.close()
    return largest[0]


def test_poll_mode_loses_nothing(spinning):
    ping_pong(spinning, 500)


def test_poll_mode_grows_when_events_come_soon_and_ends_when_they_are_rare(fdmon, no_leaks):
    # A wide limit, so that a slow machine's wake-ups (some 100 us) count as soon.
    limit = 5_000_000
    context = AioContext(fdmon, limit)
    seen = []

    def again():
        seen.append(context.poll_ns)
        timer.mod_ns(time.monotonic_ns() + 200_000)

    timer = context.timer_new(again)
    again()
    run_until(context, lambda: max(seen) > 200_000)
    grown = sorted(set(seen))
    assert grown[:3] == [0, 4_000, 8_000]  # QEMU's first step, doubled from then on
    assert grown[-1] <= limit
    timer.delete()
    rare = context.timer_new(lambda: None)

    def spins_no_more():
        # More than one sleep may be needed: a wake-up without reason soon after falling asleep lets it grow once.
        rare.mod_ns(time.monotonic_ns() + 20_000_000)
        while rare.pending():
            context.poll()
        return context.poll_ns == 0

    assert any(spins_no_more() for _ in range(20))
    context.close()


def test_poll_mode_is_never_early(spinning):
    for delay in (1_000, 20_000, 49_000, 60_000) * 20:
        fired = []
        due = time.monotonic_ns() + delay
        timer = spinning.timer_new(lambda fired=fired: fired.append(time.monotonic_ns()))
        timer.mod_ns(due)
        while not fired:
            spinning.poll()
        assert fired[0] >= due


def test_poll_mode_sees_what_threads_schedule(spinning):
    ran = []

    def produce():
        for i in range(500):
            spinning.bh_schedule_oneshot(lambda i=i: ran.append(i))
            while len(ran) <= i:
                os.sched_yield()

    thread = threading.Thread(target=produce)
    thread.start()
    with rescue(spinning, 20) as needed:
        while len(ran) < 500 and not needed.is_set():
            spinning.poll()
    thread.join()
    assert not needed.is_set()
    assert ran == list(range(500))


def test_poll_mode_sleeps_in_the_end(spinning):
    ping_pong(spinning, 50)
    assert sleeps(spinning)
    assert spinning.poll_ns == 0


def test_poll_mode_can_be_set_while_it_runs(context):
    context.set_poll_params(0)
    assert context.poll_max_ns == 0
    context.set_poll_params(50_000)
    assert context.poll_max_ns == 50_000
    ping_pong(context, 100)
    context.set_poll_params(0)
    assert context.poll_ns == 0
    assert ping_pong(context, 100) == 0


def spin_counters(context, work):
    """What work() adds to (spins, hits, spent_ns)."""
    before = context.poll_counters()
    work()
    return tuple(b - a for a, b in zip(before, context.poll_counters(), strict=True))


ECHO = """
import socket, sys
with socket.socket(fileno=int(sys.argv[1])) as end:
    while data := end.recv(1):
        end.send(data)
"""


def test_a_steady_ping_pong_spins_and_hits(fdmon, no_leaks):
    if fdmon == "liburing":
        pytest.skip("spinning goes without the GIL, and so without monitors in Python")
    context = AioContext(fdmon, 50_000_000)  # so wide that no busy machine's pause ends it
    ours, theirs = socket.socketpair()
    child = subprocess.Popen([sys.executable, "-c", ECHO, str(theirs.fileno())], pass_fds=[theirs.fileno()])
    theirs.close()
    try:
        context.set_fd_handler(ours, lambda: ours.send(ours.recv(1)))
        ours.send(b"x")
        # However busy the machine is: some of the answers come while it spins.
        run_until(context, lambda: context.poll_counters()[1] >= 10, 45)
        spins, hits, spent_ns = context.poll_counters()
        assert spins >= hits
        assert spent_ns > 0
    finally:
        context.close()
        ours.close()
        child.wait()


def test_events_that_wait_for_the_wake_up_are_probed_for(fdmon, no_leaks):
    """A wait that was a little longer than the limit is tried by a whole spin now and then: waking up may be what took
    the time."""
    limit = 1_000_000
    context = AioContext(fdmon, limit)
    timer = context.timer_new(lambda: None)
    probed = False
    deadline = time.monotonic() + 30
    while not probed and time.monotonic() < deadline:
        timer.mod_ns(time.monotonic_ns() + 2 * limit)
        while timer.pending():
            before = context.poll_ns
            context.poll()
            probed = probed or (before, context.poll_ns) == (0, limit)
    context.close()
    assert probed


def test_a_timer_a_millisecond_does_not_spin(fdmon, no_leaks):
    context = AioContext(fdmon, 32_768)
    left = [100]

    def again():
        left[0] -= 1
        timer.mod_ns(time.monotonic_ns() + 1_000_000)

    timer = context.timer_new(again)
    again()
    spins, hits, spent_ns = spin_counters(context, lambda: run_until(context, lambda: left[0] <= 0))
    # A wait cut short by something else may let it try once more.
    assert spins <= 20 and spent_ns <= 20 * 100_000 + 10_000_000 * hits
    timer.delete()
    context.close()


def test_a_cpu_that_others_want_is_left_to_them(fdmon, no_leaks):
    """Two processes on one CPU: a yield comes back late, and poll mode rests, longer each time."""
    cpus = os.sched_getaffinity(0)
    context = AioContext(fdmon, 50_000_000)
    hog = subprocess.Popen([sys.executable, "-c", "print(flush=True)\nwhile True: pass"], stdout=subprocess.PIPE)
    try:
        os.sched_setaffinity(0, {min(cpus)})
        os.sched_setaffinity(hog.pid, {min(cpus)})
        hog.stdout.readline()
        left = [400]

        def again():
            left[0] -= 1
            timer.mod_ns(time.monotonic_ns() + 100_000)

        timer = context.timer_new(again)
        again()
        spins, _, _ = spin_counters(context, lambda: run_until(context, lambda: left[0] <= 0, 60))
        assert spins < 200
        timer.delete()
    finally:
        os.sched_setaffinity(0, cpus)
        hog.kill()
        hog.wait()
        hog.stdout.close()
    context.close()


@pytest.mark.parametrize("name, bad", [("grow", -1), ("shrink", -1), ("grow", 1.5), ("shrink", "2")])
def test_wrong_factors_are_told(context, name, bad):
    context.set_poll_params(1000)
    with pytest.raises((TypeError, ValueError), match=name):
        context.set_poll_params(5, **{name: bad})
    assert context.poll_max_ns == 1000


def test_grow_and_shrink_are_qemus(fdmon, no_leaks):
    limit = 50_000_000
    context = AioContext(fdmon)
    context.set_poll_params(limit, grow=8, shrink=4)
    timer = context.timer_new(lambda: None)

    def wait(delay_ns):
        """Returns True if poll_ns shrank. A wait may take more turns than one."""
        shrank = False
        timer.mod_ns(time.monotonic_ns() + delay_ns)
        while timer.pending():
            before = context.poll_ns
            context.poll()
            grown = min(limit, before * 8 or 4_000)
            assert context.poll_ns in (before, grown, before // 4) or (before, context.poll_ns) == (0, limit)
            shrank = shrank or context.poll_ns < before
        return shrank

    while context.poll_ns < 1_000_000:
        wait(1_000_000)
    assert any(wait(limit + 10_000_000) for _ in range(50))  # a wait may be cut short
    context.close()


class TestDefault:
    @pytest.fixture(autouse=True)
    def nothing_in_the_environment(self, monkeypatch):
        monkeypatch.delenv("AIOQEMU_POLL_MAX_NS", raising=False)

    def test_it_is_on_where_there_are_two_cpus(self, monkeypatch):
        monkeypatch.setattr(poll_params, "usable_cpus", lambda: 2)
        assert poll_params.poll_max_ns_or_default(None) == 32_768
        monkeypatch.setattr(poll_params, "usable_cpus", lambda: 1)
        assert poll_params.poll_max_ns_or_default(None) == 0

    def test_a_process_bound_to_one_cpu_does_not_spin(self):
        cpus = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {min(cpus)})
        try:
            assert poll_params.poll_max_ns_or_default(None) == 0
        finally:
            os.sched_setaffinity(0, cpus)

    @pytest.mark.parametrize(
        "files, cpus",
        [
            ({}, 64),
            ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/cpu.max": "max 100000\n"}, 64),
            ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/cpu.max": "250000 100000\n"}, 2),
            ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/cpu.max": "150000 100000\n"}, 1),
            ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/cpu.max": "5000 100000\n"}, 1),
            ({"proc/self/cgroup": "0::/of/the/host\n", "sys/fs/cgroup/cpu.max": "100000 100000\n"}, 1),
            ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "nonsense\n"}, 64),
            (
                {
                    "proc/self/cgroup": "4:cpu,cpuacct:/a\n1:name=systemd:/x\n",
                    "sys/fs/cgroup/cpu/a/cpu.cfs_quota_us": "300000\n",
                    "sys/fs/cgroup/cpu/a/cpu.cfs_period_us": "100000\n",
                },
                3,
            ),
            (
                {
                    "proc/self/cgroup": "4:cpu:/a\n",
                    "sys/fs/cgroup/cpu/a/cpu.cfs_quota_us": "-1\n",
                    "sys/fs/cgroup/cpu/a/cpu.cfs_period_us": "100000\n",
                },
                64,
            ),
        ],
    )
    def test_the_quota_of_control_groups_counts(self, monkeypatch, tmp_path, files, cpus):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        assert poll_params.usable_cpus(tmp_path) == cpus
