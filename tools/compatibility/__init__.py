"""Does a loop do what asyncio documents? Probes that run, each in a process of its own, and the table of their answers.

`python -m tools.compatibility` asks asyncio, uvloop, rloop and this loop on each backend; `--write` writes it.
"""
