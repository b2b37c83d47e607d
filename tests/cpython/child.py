"""Runs one of the standard library's test modules in this process, on our loop or on the stdlib's own.

Started by runs.py as a script, with one argument: a file with the job. It tells what happened in a file, a line of
JSON at a time, so that a crash loses nothing but the test that crashed.
"""

from __future__ import annotations

import asyncio
import asyncio.unix_events
import faulthandler
import fnmatch
import importlib
import json
import sys
import traceback
import unittest
from typing import Any, TextIO

import aioqemu_loop
from tests.mainloops.guest import GUESTS, new_guest_loop

# Names of the stdlib's loop class, in asyncio and in asyncio.unix_events, and of what makes one by itself.
LOOPS = ("SelectorEventLoop", "_UnixSelectorEventLoop", "EventLoop")
# Test classes of test_base_events that make a loop of asyncio's base classes.
BASE_LOOP_CASES = ("BaseEventLoopTests", "BaseLoopSockSendfileTests")
POLICIES = ("DefaultEventLoopPolicy", "_DefaultEventLoopPolicy", "_UnixDefaultEventLoopPolicy")


class StandIn(type):
    """The type of the class that takes the stdlib loop's place: calling that makes a loop of ours."""

    fdmon = ""
    made = 0

    def __call__(cls, selector: object = None) -> aioqemu_loop.Loop:
        StandIn.made += 1
        if StandIn.fdmon.startswith("glib:"):
            from tests.mainloops.glib_loops import new_glib_loop  # needs PyGObject

            return new_glib_loop(StandIn.fdmon.removeprefix("glib:"))
        if StandIn.fdmon in GUESTS:
            return new_guest_loop(StandIn.fdmon)
        return aioqemu_loop.new_event_loop(fdmon=StandIn.fdmon)

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, aioqemu_loop.Loop)


class EventLoop(metaclass=StandIn):
    pass


def replace_the_loop(fdmon: str) -> None:
    """Whatever makes the stdlib's loop makes ours from now on: the class, the policy, and so Runner and run()."""
    StandIn.fdmon = fdmon
    for module in (asyncio, asyncio.unix_events):
        for name in LOOPS:
            if hasattr(module, name):
                setattr(module, name, EventLoop)
    for name in POLICIES:
        policy = vars(asyncio.unix_events).get(name)
        if policy is not None:
            policy._loop_factory = EventLoop
    asyncio.BaseEventLoop = EventLoop
    replace_the_tests_own_loop()


def replace_the_tests_own_loop() -> None:
    """Tests that do not steer the time of the fake loop get a real one."""
    from test.test_asyncio import utils

    fake = utils.TestCase.new_test_loop

    def new_test_loop(self: Any, gen: Any = None) -> Any:
        if gen is not None:
            return fake(self, gen)
        loop = asyncio.new_event_loop()
        self.set_event_loop(loop)
        return loop

    utils.TestCase.new_test_loop = new_test_loop


def replace_the_base_loop(case: Any) -> None:
    """Tests of a base class that is no complete loop run on ours."""
    make_base_loop = case.setUp

    def setUp(self: Any) -> None:
        make_base_loop(self)
        self.loop.close()
        self.loop = asyncio.new_event_loop()
        self.set_event_loop(self.loop)

    case.setUp = setUp


class Result(unittest.TestResult):
    """Writes one line when a test starts and one when it has ended."""

    def __init__(self, out: TextIO, prefix: str, seconds: float) -> None:
        super().__init__()
        self._out = out
        self._prefix = prefix
        self._seconds = seconds
        self._made = 0
        self._outcome = ("passed", "")

    def name_of(self, test: unittest.TestCase) -> str:
        return test.id().removeprefix(self._prefix)

    def write(self, test: unittest.TestCase, outcome: str, detail: str = "") -> None:
        line = {"test": self.name_of(test), "outcome": outcome, "detail": detail, "made": StandIn.made - self._made}
        print(json.dumps(line), file=self._out, flush=True)

    def startTest(self, test: unittest.TestCase) -> None:
        super().startTest(test)
        self._outcome = ("passed", "")
        self.write(test, "started")
        # Tells where it hangs, and ends the process.
        faulthandler.dump_traceback_later(self._seconds, exit=True)

    def stopTest(self, test: unittest.TestCase) -> None:
        faulthandler.cancel_dump_traceback_later()
        super().stopTest(test)
        self.write(test, *self._outcome)
        self._made = StandIn.made

    def _note(self, test: Any, outcome: str, detail: str) -> None:
        if isinstance(test, unittest.TestCase):
            if self._outcome[0] != "failed":
                self._outcome = (outcome, detail)
        else:  # setUpModule, setUpClass and the like: neither startTest nor stopTest is called
            self.write(test, outcome, detail)

    def addError(self, test: Any, err: Any) -> None:
        self._note(test, "failed", "".join(traceback.format_exception(*err)))

    def addFailure(self, test: Any, err: Any) -> None:
        self.addError(test, err)

    def addSubTest(self, test: Any, subtest: Any, err: Any) -> None:
        if err is not None:
            self._note(test, "failed", f"{subtest}\n" + "".join(traceback.format_exception(*err)))

    def addSkip(self, test: Any, reason: str) -> None:
        # A subtest that is skipped says so of itself.
        self._note(getattr(test, "test_case", test), "skipped", reason)

    def addExpectedFailure(self, test: Any, err: Any) -> None:
        self._note(test, "expected failure", "")

    def addUnexpectedSuccess(self, test: Any) -> None:
        self._note(test, "failed", "unexpected success")


def flatten(suite: unittest.TestSuite) -> list[unittest.TestCase]:
    tests: list[unittest.TestCase] = []
    for item in suite:
        tests += flatten(item) if isinstance(item, unittest.TestSuite) else [item]
    return tests


def load(module_name: str) -> list[unittest.TestCase] | str:
    """The module's tests, or why it cannot be had."""
    try:
        module = importlib.import_module(module_name)
    except unittest.SkipTest as exc:
        return str(exc)
    from test import support

    support.verbose = 0
    for case in BASE_LOOP_CASES if StandIn.fdmon else ():
        if hasattr(module, case):
            replace_the_base_loop(getattr(module, case))
    return flatten(unittest.defaultTestLoader.loadTestsFromModule(module))


def run(job: dict[str, Any], out: TextIO) -> None:
    if job["fdmon"] is not None:
        replace_the_loop(job["fdmon"])
    tests = load(job["module"])
    result = Result(out, job["module"] + ".", job["seconds"])
    if isinstance(tests, str):
        result.write(unittest.FunctionTestCase(run, description=""), "module skipped", tests)
        return
    done = set(job["done"])
    suite = unittest.TestSuite()
    for test in tests:
        name = result.name_of(test)
        left_out = [pattern for pattern in job["left_out"] if fnmatch.fnmatchcase(name, pattern)]
        if left_out:
            result.write(test, "left out", left_out[0])
        elif name not in done:
            suite.addTest(test)
    suite.run(result)


if __name__ == "__main__":
    with open(sys.argv[1]) as job_file:
        job = json.load(job_file)
    with open(job["out"], "a") as out:
        run(job, out)
