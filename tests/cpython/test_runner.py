"""The runner of CPython's tests: it can fail, survives crashes and hangs, and really puts our loop in."""

from __future__ import annotations

import textwrap

import pytest

from .runs import Case, Run, run_module, worse

OUTCOMES = """
    import os, time, unittest

    class T(unittest.TestCase):
        def test_good(self): pass
        def test_bad(self): self.assertEqual(1, 2)
        def test_error(self): raise OSError("broken")
        def test_subtests(self):
            for i in range(3):
                with self.subTest(i=i): self.assertNotEqual(i, 1)
        @unittest.skip("why not")
        def test_skipped(self): pass
        @unittest.expectedFailure
        def test_expected(self): self.fail()
        @unittest.expectedFailure
        def test_unexpected(self): pass
        def test_crash(self): os.abort()
        def test_hang(self): time.sleep(100)
        def test_left_out(self): self.fail()
        def test_zzz(self): pass

    class Broken(unittest.TestCase):
        @classmethod
        def setUpClass(cls): raise OSError("no class")
        def test_never(self): pass
"""
DOORS = """
    import asyncio, selectors, sys, unittest, warnings

    async def name():
        return getattr(asyncio.get_running_loop(), "fdmon", "stdlib")

    class T(unittest.TestCase):
        def check(self, loop):
            with self.subTest(): self.assertEqual(loop.run_until_complete(name()), "FDMON")
            loop.close()
        def test_new(self): self.check(asyncio.new_event_loop())
        def test_class(self): self.check(asyncio.SelectorEventLoop())
        def test_selector(self): self.check(asyncio.SelectorEventLoop(selectors.SelectSelector()))
        def test_base(self): self.check(asyncio.BaseEventLoop())
        def test_instance(self):
            loop = asyncio.new_event_loop()
            self.assertIsInstance(loop, asyncio.SelectorEventLoop)
            loop.close()
        def test_run(self): self.assertEqual(asyncio.run(name()), "FDMON")
        @unittest.skipIf(sys.version_info < (3, 11), "no Runner")
        def test_runner(self):
            with asyncio.Runner() as runner: self.assertEqual(runner.run(name()), "FDMON")
        @unittest.skipIf(sys.version_info >= (3, 16), "no policies")
        def test_policy(self):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                asyncio.set_event_loop_policy(None)
                self.check(asyncio.DefaultEventLoopPolicy().new_event_loop())

    class I(unittest.IsolatedAsyncioTestCase):
        async def test_case(self): self.assertEqual(await name(), "FDMON")
"""


@pytest.fixture
def sample(tmp_path, monkeypatch):
    """sample(source): a test module of that source that children can import."""

    def write(source: str) -> str:
        (tmp_path / "sample_tests.py").write_text(textwrap.dedent(source))
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        return "sample_tests"

    return write


def test_every_outcome_is_told_and_crashes_and_hangs_end_no_other_test(sample):
    run = run_module(sample(OUTCOMES), None, left_out=("T.test_left*",), seconds=1)
    assert {name.replace("sample_tests.", ""): case.outcome for name, case in run.cases.items()} == {
        "T.test_good": "passed",
        "T.test_bad": "failed",
        "T.test_error": "failed",
        "T.test_subtests": "failed",
        "T.test_skipped": "skipped",
        "T.test_expected": "expected failure",
        "T.test_unexpected": "failed",
        "T.test_crash": "failed",
        "T.test_hang": "failed",
        "T.test_left_out": "left out",
        "T.test_zzz": "passed",
        "setUpClass (Broken)": "failed",
    }
    assert "1 != 2" in run.cases["T.test_bad"].detail and "broken" in run.cases["T.test_error"].detail
    assert "test_hang" in run.cases["T.test_hang"].detail and "Abort" in run.cases["T.test_crash"].detail
    assert run.cases["T.test_skipped"].detail == "why not"


def test_a_module_that_skips_itself_says_why(sample):
    run = run_module(sample("import unittest\nraise unittest.SkipTest('not here')"), None)
    assert run.module_skipped == "not here" and not run.cases


def test_a_module_that_cannot_be_imported_is_a_failure(sample):
    run = run_module(sample("import nothing_of_this_name"), None)
    (case,) = run.cases.values()
    assert case.outcome == "failed" and "nothing_of_this_name" in case.detail


def test_every_door_makes_our_loop(sample, fdmon):
    run = run_module(sample(DOORS.replace("FDMON", fdmon)), fdmon)
    assert not {name: case.detail for name, case in run.cases.items() if case.outcome == "failed"}
    assert run.on_our_loop == run.passed > 0


def test_without_a_backend_it_is_the_stdlibs_loop(sample):
    run = run_module(sample(DOORS.replace("FDMON", "stdlib")), None)
    assert run.cases["T.test_new"].good and run.cases["T.test_run"].good and run.on_our_loop == 0


def test_worse_is_what_is_good_on_the_stdlibs_loop_only():
    good, bad, skipped = Case("passed"), Case("failed"), Case("skipped")
    names = ("both", "ours bad", "ours skipped", "not run", "stdlib bad")
    reference = Run(dict(zip(names, (good, good, good, good, bad), strict=True)))
    ours = Run({"both": good, "ours bad": bad, "ours skipped": skipped, "stdlib bad": bad, "(the module)": bad})
    assert list(worse(reference, ours)) == ["ours bad", "ours skipped", "not run", "(the module)"]
