"""What is measured inside the process of the loop under test.

A case is a coroutine function of a `Clock` that has not started. It does its set-up, calls `clock.start()`, and does
operations until `clock.another()` is False. Each folder-mate has one kind of them, and `CASES` by name.
"""
