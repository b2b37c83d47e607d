"""`doctor` on this machine, and where something is denied or short."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import errno
import io
import json
import os

import pytest

import aioqemu_loop
from aioqemu_loop.cli import doctor, machine
from aioqemu_loop.cli.advice import advice
from aioqemu_loop.context.poll_params import usable_cpus

from ..conftest import need_fdmon
from ..context.helpers import in_child
from ..uring.test_denied import deny, needs_root, unprivileged


def run(as_json: bool = True) -> tuple[int, str]:
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        status = doctor.main(argparse.Namespace(json=as_json))
    return status, output.getvalue()


def run_in_child(prepare) -> tuple[int, dict]:
    """doctor --json in a process that `prepare` took something from. "skip": it could not."""

    def child():
        try:
            prepare()
        except OSError as exc:
            return json.dumps([None, f"cannot be tried here: {exc}"])
        status, text = run()
        return json.dumps([status, json.loads(text)])

    status, found = json.loads(in_child(child))
    if status is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(found)
    return status, found


@pytest.fixture(scope="module")
def here() -> machine.Machine:
    return machine.look()


class TestHere:
    def test_text(self, command):
        result = command("doctor")
        assert (result.returncode, result.stderr) == (0, "")
        for text in (
            f"aioqemu_loop {aioqemu_loop.__version__}",
            os.uname().release,
            "io_uring",
            "RLIMIT_MEMLOCK",
            "What to",
        ):
            assert text in result.stdout
        assert all(len(line) <= doctor.WIDTH for line in result.stdout.splitlines())

    def test_json_says_what_fdmons_says(self):
        status, text = run()
        found = json.loads(text)
        assert status == 0
        assert found["backends"] == aioqemu_loop.fdmons()
        assert found["default"] == next(name for name, reason in found["backends"].items() if reason is None)
        assert found["cpus"]["usable"] == usable_cpus()
        loop = aioqemu_loop.new_event_loop()
        assert (loop.fdmon, loop.context.poll_max_ns) == (found["default"], found["poll_max_ns"])
        loop.close()

    def test_the_ring_is_probed(self, here, no_leaks):
        need_fdmon("io_uring")
        # What the project's floor (5.11) has; the rest is the kernel's affair.
        for name in ("readv", "poll_add", "async_cancel", "openat", "recv", "splice", "tee"):
            assert here.ring["operations"][name] is True
        if tuple(map(int, os.uname().release.split("-")[0].split(".")[:2])) >= (6, 15):
            assert all(value is True or name in ("entries", "operations") for name, value in here.ring.items())

    def test_probing_leaves_nothing(self, no_leaks):
        machine.look()

    def test_the_names_in_the_environment(self, monkeypatch):
        monkeypatch.setenv("AIOQEMU_FDMON", "poll")
        monkeypatch.setenv("AIOQEMU_POLL_MAX_NS", "5")
        found = json.loads(run()[1])
        assert (found["default"], found["poll_max_ns"]) == ("poll", 5)
        assert "AIOQEMU_POLL_MAX_NS" in run(as_json=False)[1]

    @pytest.mark.parametrize("name, value", [("AIOQEMU_FDMON", "kqueue"), ("AIOQEMU_POLL_MAX_NS", "soon")])
    def test_a_wrong_value_there(self, monkeypatch, name, value):
        monkeypatch.setenv(name, value)
        status, text = run()
        assert status == 1
        assert name in json.loads(text)["advice"][0] and value in json.loads(text)["advice"][0]


class TestDegraded:
    @pytest.mark.parametrize("number", [errno.EPERM, errno.ENOSYS])
    def test_denied_by_seccomp(self, number):
        status, found = run_in_child(lambda: deny(number))
        assert (status, found["default"], found["ring"]) == (0, "epoll", None)
        assert found["seccomp"] == "filter"
        assert errno.errorcode[number] in found["backends"]["io_uring"]
        assert "seccomp" in found["advice"][0] and "io_uring_setup" in found["advice"][0]

    def test_denied_and_asked_for_by_name(self, command):
        def prepare():
            deny(errno.EPERM)

        result = command("doctor", preexec_fn=prepare, AIOQEMU_FDMON="io_uring")
        assert result.returncode == 1, result.stderr
        assert "No loop can be made: AIOQEMU_FDMON asks for io_uring: denied" in " ".join(result.stdout.split())

    @needs_root
    def test_no_memory_for_rings(self):
        status, found = run_in_child(lambda: unprivileged(0))
        assert (status, found["default"]) == (0, "epoll")
        assert found["limits"]["RLIMIT_MEMLOCK"] == [0, 0]
        assert "RLIMIT_MEMLOCK" in found["backends"]["io_uring"]
        assert "ulimit -l 8192" in found["advice"][0]

    @needs_root
    def test_little_memory_for_rings(self):
        status, found = run_in_child(lambda: unprivileged(64 * 1024))
        assert (status, found["default"]) == (0, "io_uring")
        assert any("later ones epoll" in text for text in found["advice"])

    def test_one_cpu(self):
        status, found = run_in_child(lambda: os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}))
        assert (status, found["cpus"]["affinity"], found["poll_max_ns"]) == (0, 1, 0)
        assert any("one CPU only" in text for text in found["advice"])


def changed(here: machine.Machine, **fields) -> machine.Machine:
    return dataclasses.replace(here, environment={}, **fields)


class TestAdvice:
    """What cannot be brought about here: a machine is described."""

    DENIED = {"ring": None, "default": "epoll", "default_error": None, "seccomp": "off"}

    @pytest.mark.parametrize(
        "fields, said",
        [
            ({"ring_errno": errno.EPERM, "io_uring_disabled": 2}, "sysctl kernel.io_uring_disabled=0"),
            (
                {"ring_errno": errno.EPERM, "io_uring_disabled": 1, "io_uring_group": 990},
                "put this user into group 990",
            ),
            (
                {"ring_errno": errno.EPERM, "io_uring_disabled": 1, "io_uring_group": -1},
                "the group that `kernel.io_uring",
            ),
            ({"ring_errno": errno.EPERM, "io_uring_disabled": 0}, "SELinux"),
            ({"ring_errno": errno.EPERM, "io_uring_disabled": None, "seccomp": "filter"}, "Docker"),
            ({"ring_errno": errno.ENOSYS, "io_uring_disabled": None}, "Linux 5.11 or newer"),
            ({"ring_errno": errno.EMFILE, "io_uring_disabled": 0}, "ulimit -n"),
            ({"ring_errno": errno.EACCES, "io_uring_disabled": 0}, "EACCES"),
        ],
    )
    def test_denied(self, here, fields, said):
        text = advice(changed(here, **{**self.DENIED, **fields}))[0]
        assert said in text and text.endswith(".")

    GOOD = {
        "entries": 64,
        "defer_taskrun": True,
        "provided_buffers": True,
        "multishot_receive": True,
        "cqe_skip": True,
        "no_iowait": True,
        "operations": {"waitid": True},
    }

    @pytest.mark.parametrize(
        "ring, said",
        [
            ({"defer_taskrun": False, "multishot_receive": False}, "Linux 6.1"),
            ({"multishot_receive": False}, "Multishot receive"),
            ({"no_iowait": False}, "iowait"),
            ({"operations": {"waitid": False}}, "waitid (Linux 6.7)"),
            ({"entries": 16}, "16 entries instead of 64"),
        ],
    )
    def test_an_older_kernel(self, here, ring, said):
        good = changed(
            here,
            ring=self.GOOD,
            limits={"RLIMIT_MEMLOCK": (-1, -1), "RLIMIT_NOFILE": (65536, 65536)},
            poll_max_ns=1,
            default="io_uring",
        )
        assert advice(good) == []
        assert "\n  Nothing." in "\n".join(doctor.report(good))
        (text,) = advice(dataclasses.replace(good, ring={**self.GOOD, **ring}))
        assert said in text

    def test_a_quota(self, here):
        cpus = {"online": 8, "affinity": 8, "usable": 1}
        text = advice(changed(here, cpus=cpus, poll_max_ns=0))[-1]
        assert "cpu.max" in text

    def test_few_files(self, here):
        found = changed(here, limits={"RLIMIT_MEMLOCK": (-1, -1), "RLIMIT_NOFILE": (256, 4096)})
        assert any("At most 256 files" in text and "4096" in text for text in advice(found))

    def test_what_the_kernel_tells_is_read(self, tmp_path):
        (tmp_path / "proc/self").mkdir(parents=True)
        (tmp_path / "proc/sys/kernel").mkdir(parents=True)
        (tmp_path / "proc/self/status").write_text("Name:\tx\nNoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t1\n")
        (tmp_path / "proc/sys/kernel/io_uring_disabled").write_text("1\n")
        (tmp_path / "proc/sys/kernel/io_uring_group").write_text("990\n")
        found = machine.look(tmp_path)
        assert (found.seccomp, found.io_uring_disabled, found.io_uring_group) == ("filter", 1, 990)
        text = "\n".join(doctor.report(found))
        assert "1: only CAP_SYS_ADMIN and a group may" in text and "990" in text
        nothing = machine.look(tmp_path / "proc")
        assert (nothing.seccomp, nothing.io_uring_disabled) == (None, None)
