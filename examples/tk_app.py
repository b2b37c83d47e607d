"""asyncio inside Tkinter's main loop: a window that stays alive while coroutines talk over sockets.

python examples/tk_app.py          # a window with a button; close it to end
python examples/tk_app.py --once   # one round trip, then the end (what the tests run)
"""

from __future__ import annotations

import asyncio
import math
import select
import sys
import tkinter

import aioqemu_loop


class TkDriver:
    """Drives a GSource by Tk's file handlers and its `after` timer."""

    def __init__(self, root: tkinter.Tk, source: aioqemu_loop.GSource) -> None:
        self.root = root
        self.source = source
        self.watched: list[tuple[int, int]] = []
        self.timer: str | None = None
        self.turn()

    def turn(self, *_: object) -> None:
        """Something happened: let asyncio run what is ready, then watch what it asks for."""
        if self.source.check(self.ready_now()):
            self.source.dispatch()
        timeout = self.source.prepare()
        wanted = self.source.poll_fds()
        if wanted != self.watched:
            self.watch(wanted)
        if self.timer is not None:
            self.root.after_cancel(self.timer)
        self.timer = None if timeout is None else self.root.after(math.ceil(timeout / 1e6), self.turn)

    def ready_now(self) -> list[tuple[int, int]]:
        poller = select.poll()
        for fd, events in self.watched:
            poller.register(fd, events)
        return poller.poll(0)

    def watch(self, wanted: list[tuple[int, int]]) -> None:
        for fd in {fd for fd, _ in self.watched} - {fd for fd, _ in wanted}:
            self.root.tk.deletefilehandler(fd)
        for fd, events in wanted:
            mask = tkinter.READABLE if events & select.POLLIN else 0
            mask |= tkinter.WRITABLE if events & select.POLLOUT else 0
            self.root.tk.createfilehandler(fd, mask, self.turn)
        self.watched = list(wanted)

    def close(self) -> None:
        self.watch([])
        if self.timer is not None:
            self.root.after_cancel(self.timer)
        self.source.destroy()


async def shout(text: str) -> str:
    """Ask a server, which runs in the same loop, to make it louder."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.readline()).upper())
        await writer.drain()
        await reader.read()  # until the client has gone
        writer.close()
        await writer.wait_closed()
        served.set()

    served = asyncio.Event()
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(text.encode() + b"\n")
        answer = await reader.readline()
        writer.close()
        await writer.wait_closed()
        await served.wait()
    return answer.decode().strip()


def main(once: bool) -> None:
    root = tkinter.Tk()
    loop = aioqemu_loop.new_event_loop(g_source=True)
    driver = TkDriver(root, loop.context.get_g_source())
    label = tkinter.Label(root, text="asyncio in Tk", width=40)
    label.pack()
    tasks = set()

    async def ask() -> None:
        for left in (3, 2, 1):
            label["text"] = f"asking in {left} ..."
            await asyncio.sleep(0.01 if once else 0.5)
        label["text"] = await shout("hello from tk")
        print(label["text"])
        if once:
            root.quit()

    def pressed() -> None:
        task = loop.create_task(ask())
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    tkinter.Button(root, text="Ask", command=pressed).pack()
    if once:
        root.after(1, pressed)
    root.mainloop()
    driver.close()
    for task in tasks:
        task.cancel()
    loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    loop.close()


if __name__ == "__main__":
    main("--once" in sys.argv)
