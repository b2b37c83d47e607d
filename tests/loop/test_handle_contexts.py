"""A handle that was made while nothing is in the context has no context of its own until it runs, and gives it back if
that does not show. On asyncio's loop each has one all the time: nobody may see a difference."""

from __future__ import annotations

import contextvars
import sys
import threading

import pytest

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")
another: contextvars.ContextVar[str] = contextvars.ContextVar("another")


@pytest.fixture(params=["empty", "not empty"])
def inside(request):
    """inside(function): calls it in a context in which nothing, or something, is set."""
    context = contextvars.Context()
    if request.param == "not empty":
        context.run(another.set, "something")
    return context.run


def made(loop, how, callback, *args):
    if how == "soon":
        return loop.call_soon(callback, *args)
    if how == "threadsafe":
        return loop.call_soon_threadsafe(callback, *args)
    return loop.call_later(0, callback, *args)


ways = pytest.mark.parametrize("how", ["soon", "threadsafe", "later"])


@ways
def test_what_a_callback_sets_is_not_seen_by_the_next(any_loop, turn, inside, how) -> None:
    seen = []

    def callback(value):
        seen.append(variable.get())
        variable.set(value)

    def main():
        for i in range(5):
            made(any_loop, how, callback, f"set {i}")
        turn(any_loop, 2)
        seen.append(variable.get())

    inside(main)
    assert seen == ["unset"] * 6


@ways
def test_what_is_set_after_the_handle_was_made_is_not_seen(any_loop, turn, inside, how) -> None:
    seen = []

    def main():
        made(any_loop, how, lambda: seen.append(variable.get()))
        variable.set("later")
        made(any_loop, how, lambda: seen.append(variable.get()))
        turn(any_loop, 2)

    inside(main)
    assert seen == ["unset", "later"]


@ways
def test_the_handles_context_is_the_one_it_runs_in(any_loop, turn, inside, how) -> None:
    """Also where somebody sets something in it before, and where it is asked for only afterwards."""
    seen = []

    def callback():
        seen.append(variable.get())
        variable.set("by the callback")

    def main():
        asked = made(any_loop, how, callback)
        not_asked = made(any_loop, how, callback)
        context = asked._context
        context.run(variable.set, "before")
        turn(any_loop, 2)
        assert asked._context is context
        return asked, not_asked

    for handle in inside(main):
        assert handle._context[variable] == "by the callback"
    assert seen == ["before", "unset"]


def test_a_context_that_was_asked_for_inside_the_callback_is_nobody_elses(any_loop, turn, inside) -> None:
    """Entering a context that is entered already raises RuntimeError."""
    kept = []
    handles = []

    def main():
        handles.append(any_loop.call_soon(lambda: kept.append(handles[0]._context)))
        for _ in range(3):
            any_loop.call_soon(lambda: kept[0].run(variable.set, "in the first one's"))
        any_loop.call_soon(lambda: kept.append(variable.get()))
        turn(any_loop)

    inside(main)
    assert kept[1] == "unset"
    assert kept[0][variable] == "in the first one's"


def test_a_token_belongs_to_the_context_of_its_callback(any_loop, turn, inside) -> None:
    """Although that one holds nothing any more when the callback returns."""
    tokens = []
    raised = []

    def first():
        tokens.extend((variable.set("one"), variable.set("two")))
        variable.reset(tokens[0])

    def second():
        try:
            variable.reset(tokens[1])
        except ValueError as exc:
            raised.append(exc)

    def main():
        any_loop.call_soon(first)
        any_loop.call_soon(second)
        turn(any_loop)

    inside(main)
    assert "was created in a different Context" in str(raised[0])


def test_a_readers_callback_finds_what_it_has_set(any_loop, pair, inside) -> None:
    near, far = pair()
    seen = []

    def readable():
        seen.append(variable.get())
        variable.set(f"set in call {len(seen)}")
        near.recv(1)
        if len(seen) == 3:
            any_loop.remove_reader(near)
            any_loop.stop()
        else:
            far.send(b"x")

    inside(any_loop.add_reader, near, readable)
    far.send(b"x")
    any_loop.run_forever()
    assert seen == ["unset", "set in call 1", "set in call 2"]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="from 3.12 on the handler runs in the handle's context")
def test_the_exception_handler_runs_in_the_context_of_what_failed(any_loop, turn, inside) -> None:
    seen = []

    def fails():
        variable.set("before the failure")
        raise ZeroDivisionError

    any_loop.set_exception_handler(lambda _, details: seen.append(variable.get()))

    def main():
        any_loop.call_soon(fails)
        turn(any_loop)

    inside(main)
    assert seen == ["before the failure"]


def test_callbacks_of_loops_in_two_threads_at_once(any_factory, inside) -> None:
    """While one is in its callback the other runs many."""
    ours, theirs = any_factory(), any_factory()
    entered, done = threading.Event(), threading.Event()
    seen = []

    def waits():
        entered.set()
        done.wait()
        seen.append(variable.get())

    def sets(left):
        seen.append(variable.get())
        variable.set("by the other thread")
        if left:
            theirs.call_soon(sets, left - 1)
        else:
            theirs.stop()

    def run_theirs():
        theirs.call_soon(sets, 0)
        theirs.run_forever()
        theirs.call_soon(sets, 0)
        theirs.run_forever()

    def main():
        ours.call_soon(waits)
        ours.call_soon(ours.stop)
        ours.run_forever()

    thread = threading.Thread(target=inside, args=(main,))
    thread.start()
    entered.wait()
    contextvars.Context().run(run_theirs)
    done.set()
    thread.join()
    ours.close()
    theirs.close()
    assert seen == ["unset"] * 3


def test_a_callback_that_runs_other_callbacks(loop, turn) -> None:
    """AioContext.poll() in a callback: contexts are entered one in the other."""
    seen = []

    def inner():
        seen.append(variable.get())
        variable.set("inner")

    def outer():
        variable.set("outer")
        contextvars.Context().run(loop.call_soon, inner)
        contextvars.Context().run(loop.call_soon, inner)
        loop.context.poll(False)
        seen.append(variable.get())

    contextvars.Context().run(loop.call_soon, outer)
    contextvars.Context().run(loop.call_soon, inner)
    contextvars.Context().run(turn, loop)
    assert seen == ["unset", "unset", "unset", "outer"]


@ways
@pytest.mark.parametrize("count", range(6))
class TestArguments:
    """Some lie in the handle itself, more in a tuple."""

    def test_they_arrive(self, any_loop, turn, how, count) -> None:
        seen = []
        arguments = tuple(object() for _ in range(count))
        handle = made(any_loop, how, lambda *args: seen.append(args), *arguments)
        assert handle._args == arguments
        assert handle._args is handle._args
        turn(any_loop, 2)
        assert seen == [arguments]

    def test_a_bound_methods_arguments(self, any_loop, turn, how, count) -> None:
        """It puts itself in front of them."""

        class Thing:
            def __init__(self):
                self.seen = []

            def method(self, *args):
                self.seen.append((args, self.handle._args))

        thing = Thing()
        thing.handle = made(any_loop, how, thing.method, *range(count))
        turn(any_loop, 2)
        assert thing.seen == [(tuple(range(count)), tuple(range(count)))]

    def test_a_callback_that_cancels_itself_and_goes_on_using_them(self, any_loop, turn, how, count) -> None:
        seen = []
        handles = []

        def callback(*args):
            handles[0].cancel()
            assert handles[0]._args is None
            assert handles[0]._callback is None
            seen.extend(map(repr, args))

        handles.append(made(any_loop, how, callback, *([i] for i in range(count))))
        turn(any_loop, 2)
        assert seen == [f"[{i}]" for i in range(count)]

    def test_cancelling_lets_go_of_them(self, any_loop, how, count) -> None:
        arguments = [object() for _ in range(count)]
        before = [sys.getrefcount(each) for each in arguments]
        handle = made(any_loop, how, print, *arguments)
        handle.cancel()
        assert handle._args is None
        assert [sys.getrefcount(each) for each in arguments] == before

    def test_context_is_taken_by_its_name(self, any_loop, turn, how, count) -> None:
        """Also if the name is another string object of the same text."""
        context = contextvars.Context()
        context.run(variable.set, "given")
        seen = []
        name = "".join(["con", "text"])
        call, first = {
            "soon": (any_loop.call_soon, ()),
            "threadsafe": (any_loop.call_soon_threadsafe, ()),
            "later": (any_loop.call_later, (0,)),
        }[how]
        for options in ({"context": context}, {name: context}, {name: context}, {"context": None}):
            call(*first, lambda *args: seen.append((variable.get(), args)), *range(count), **options)
        turn(any_loop, 2)
        expected = tuple(range(count))
        assert seen == [("given", expected)] * 3 + [("unset", expected)]


CALLS = {
    "call_soon": (print,),
    "call_soon_threadsafe": (print,),
    "call_later": (1, print),
    "call_at": (1, print),
}


@pytest.mark.parametrize("name", CALLS)
class TestUnusualCalls:
    def test_all_by_name(self, any_loop, name) -> None:
        names = ("callback",) if len(CALLS[name]) == 1 else ({"call_later": "delay"}.get(name, "when"), "callback")
        getattr(any_loop, name)(**dict(zip(names, CALLS[name], strict=True))).cancel()

    def test_what_is_refused(self, any_loop, name) -> None:
        method = getattr(any_loop, name)
        for bad in (
            lambda: method(),
            lambda: method(*CALLS[name][:-1]),
            lambda: method(*CALLS[name], contxt=None),
            lambda: method(*CALLS[name], context=None, more=1),
        ):
            with pytest.raises(TypeError, match=rf"(?i){name}|argument"):
                bad()

    def test_through_the_class_and_through_a_subclass(self, loop_factory, name) -> None:
        loop = loop_factory()
        try:
            getattr(type(loop), name)(loop, *CALLS[name], 1, 2).cancel()
            with pytest.raises(TypeError):
                getattr(type(loop), name)(object(), *CALLS[name])
            with pytest.raises(TypeError):
                getattr(type(loop), name)(*CALLS[name])
        finally:
            loop.close()

    def test_a_closed_loop(self, loop, name) -> None:
        loop.close()
        with pytest.raises(RuntimeError, match="Event loop is closed"):
            getattr(loop, name)(*CALLS[name])


def test_create_task_without_and_with_options(any_loop) -> None:
    async def coroutine():
        return 5

    plain = any_loop.create_task(coroutine())
    named = any_loop.create_task(coroutine(), name="named")
    through_the_class = type(any_loop).create_task(any_loop, coroutine())
    assert [any_loop.run_until_complete(task) for task in (plain, named, through_the_class)] == [5] * 3
    assert named.get_name() == "named"
    assert plain.get_loop() is any_loop
    for bad in (
        any_loop.create_task,
        lambda: any_loop.create_task(5),
        lambda: type(any_loop).create_task(object(), 5),
        lambda: any_loop.create_task(None, nam="x"),
    ):
        with pytest.raises((TypeError, AttributeError)):  # asyncio's own method knows no `self` of another class
            bad()
