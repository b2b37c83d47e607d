"""Exception handlers: set, asked for, called, and broken ones."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging

import pytest


@pytest.fixture
def logged(caplog, any_loop):
    """The loop has no handler of its own; what asyncio logs."""
    any_loop.set_exception_handler(None)
    caplog.set_level(logging.DEBUG, "asyncio")
    return caplog


def fail():
    raise ZeroDivisionError("the first")


class TestHandlers:
    def test_what_is_set_is_what_is_asked_for(self, any_loop):
        def handler(loop, details):
            pass

        any_loop.set_exception_handler(handler)
        assert any_loop.get_exception_handler() is handler
        any_loop.set_exception_handler(None)
        assert any_loop.get_exception_handler() is None

    @pytest.mark.parametrize("bad", [42, "text"])
    def test_what_cannot_be_called_is_refused(self, any_loop, bad):
        before = any_loop.get_exception_handler()
        with pytest.raises(TypeError, match="A callable object or None is expected"):
            any_loop.set_exception_handler(bad)
        assert any_loop.get_exception_handler() is before

    def test_it_gets_the_loop_and_the_details(self, any_loop):
        told = []
        any_loop.set_exception_handler(lambda *arguments: told.append(arguments))
        details = {"message": "text", "own": 1}
        any_loop.call_exception_handler(details)
        assert told == [(any_loop, details)]
        assert told[0][1] is details

    def test_it_may_hand_on_to_the_default_one(self, any_loop, turn, logged):
        any_loop.set_exception_handler(lambda loop, details: loop.default_exception_handler(details))
        any_loop.call_soon(fail)
        turn(any_loop)
        (record,) = logged.records
        assert record.levelno == logging.ERROR
        assert record.message.startswith("Exception in callback fail()")
        assert "\nhandle: <Handle fail()" in record.message
        assert record.exc_info[0] is ZeroDivisionError

    def test_it_may_be_replaced_while_it_runs(self, any_loop, turn):
        told = []

        def once(loop, details):
            told.append("first")
            loop.set_exception_handler(lambda loop, details: told.append("second"))

        any_loop.set_exception_handler(once)
        any_loop.call_soon(fail)
        any_loop.call_soon(fail)
        turn(any_loop)
        assert told == ["first", "second"]

    def test_it_runs_in_the_context_of_what_failed(self, any_loop, turn):
        variable = contextvars.ContextVar("variable")
        context = contextvars.copy_context()
        context.run(variable.set, "of the callback")
        seen = []
        any_loop.set_exception_handler(lambda loop, details: seen.append(variable.get("none")))

        async def main():
            variable.set("of the task")
            raise_later = asyncio.get_running_loop().create_task(self.fails())
            await asyncio.sleep(0)
            del raise_later

        any_loop.run_until_complete(main())
        gc.collect()
        any_loop.call_soon(fail, context=context)
        turn(any_loop)
        reference = self.seen_by_the_stdlib(main, context, variable)
        assert seen == reference

    @staticmethod
    async def fails():
        raise LookupError

    @staticmethod
    def seen_by_the_stdlib(main, context, variable):
        seen = []
        loop = asyncio.SelectorEventLoop()
        loop.set_exception_handler(lambda loop, details: seen.append(variable.get("none")))
        loop.run_until_complete(main())
        gc.collect()
        loop.call_soon(fail, context=context)
        loop.call_soon(loop.stop)
        loop.run_forever()
        loop.close()
        return seen


class TestBrokenOnes:
    def test_both_errors_are_logged_and_the_loop_goes_on(self, any_loop, turn, logged):
        def handler(loop, details):
            raise LookupError("the second")

        any_loop.set_exception_handler(handler)
        ran = []
        any_loop.call_soon(fail)
        any_loop.call_soon(ran.append, 1)
        turn(any_loop)
        assert ran == [1]
        (record,) = logged.records
        assert record.message.startswith("Unhandled error in exception handler\n")
        assert "ZeroDivisionError('the first')" in record.message
        assert record.exc_info[0] is LookupError

    def test_a_broken_default_handler(self, any_loop, turn, logged, monkeypatch):
        def broken(details):
            raise LookupError("the default")

        monkeypatch.setattr(any_loop, "default_exception_handler", broken)
        any_loop.call_soon(fail)
        turn(any_loop)
        assert logged.messages == ["Exception in default exception handler"]

    def test_a_broken_default_handler_behind_a_broken_one(self, any_loop, turn, logged, monkeypatch):
        def broken(*arguments):
            raise LookupError

        any_loop.set_exception_handler(broken)
        monkeypatch.setattr(any_loop, "default_exception_handler", broken)
        any_loop.call_soon(fail)
        turn(any_loop)
        assert logged.messages == [
            "Exception in default exception handler while handling an unexpected error in custom exception handler"
        ]

    def test_a_handler_with_another_signature(self, any_loop, turn, logged):
        any_loop.set_exception_handler(lambda details: None)
        any_loop.call_soon(fail)
        turn(any_loop)
        assert logged.messages[0].startswith("Unhandled error in exception handler\n")
        assert "ZeroDivisionError('the first')" in logged.messages[0]

    def test_details_that_cannot_be_shown(self, any_loop, logged):
        class Bad:
            def __repr__(self):
                raise LookupError("in repr")

        any_loop.call_exception_handler({"message": "text", "own": Bad()})
        assert logged.messages == ["Exception in default exception handler"]


class TestWhatIsTold:
    def test_an_exception_that_nobody_retrieves(self, any_loop, errors):
        async def main():
            task = asyncio.create_task(TestHandlers.fails())
            await asyncio.sleep(0)
            del task

        any_loop.run_until_complete(main())
        gc.collect()
        (error,) = errors
        assert error["message"] == "Task exception was never retrieved"
        assert isinstance(error["exception"], LookupError)
        errors.clear()

    def test_a_task_that_is_dropped_while_it_waits(self, any_loop, errors):
        async def waits():
            await any_loop.create_future()

        any_loop.create_task(waits())
        any_loop.run_until_complete(asyncio.sleep(0))
        gc.collect()
        (error,) = errors
        assert error["message"] == "Task was destroyed but it is pending!"
        errors.clear()

    def test_an_exception_of_a_future_callback(self, any_loop, errors, turn):
        future = any_loop.create_future()
        future.add_done_callback(lambda _: fail())
        future.set_result(None)
        turn(any_loop)
        assert errors[0]["message"].startswith("Exception in callback TestWhatIsTold.")
        errors.clear()
