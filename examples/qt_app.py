"""asyncio inside Qt's main loop (pip install PySide6-Essentials).

python examples/qt_app.py          # a window with a button; close it to end
python examples/qt_app.py --once   # one download, then the end (what the tests run)
"""

from __future__ import annotations

import asyncio
import math
import select
import sys

from PySide6.QtCore import QObject, QSocketNotifier, QTimer
from PySide6.QtWidgets import QApplication, QPushButton

import aioqemu_loop

KINDS = ((select.POLLIN, QSocketNotifier.Type.Read), (select.POLLOUT, QSocketNotifier.Type.Write))


class QtDriver(QObject):
    """Drives a GSource by QSocketNotifiers and a QTimer."""

    def __init__(self, source: aioqemu_loop.GSource) -> None:
        super().__init__()
        self.source = source
        self.watched: list[tuple[int, int]] = []
        self.notifiers: dict[tuple[int, QSocketNotifier.Type], QSocketNotifier] = {}
        self.timer = QTimer(self, singleShot=True)
        self.timer.timeout.connect(self.turn)
        self.turn()

    def turn(self, *_: object) -> None:
        """Something happened: let asyncio run what is ready, then watch what it asks for."""
        poller = select.poll()
        for fd, events in self.watched:
            poller.register(fd, events)
        if self.source.check(poller.poll(0)):
            self.source.dispatch()
        timeout = self.source.prepare()
        wanted = self.source.poll_fds()
        if wanted != self.watched:
            self.watch(wanted)
        if timeout is None:
            self.timer.stop()
        else:
            self.timer.start(math.ceil(timeout / 1e6))

    def watch(self, wanted: list[tuple[int, int]]) -> None:
        keys = {(fd, kind) for fd, events in wanted for bit, kind in KINDS if events & bit}
        for key in self.notifiers.keys() - keys:
            self.notifiers.pop(key).setEnabled(False)
        for key in keys - self.notifiers.keys():
            self.notifiers[key] = QSocketNotifier(*key, self)
            self.notifiers[key].activated.connect(self.turn)
        self.watched = list(wanted)

    def close(self) -> None:
        self.watch([])
        self.timer.stop()
        self.source.destroy()


async def download(lines: int) -> int:
    """Read what a child process prints; stands for any slow thing."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", f"for i in range({lines}): print(i)", stdout=asyncio.subprocess.PIPE
    )
    out, _ = await child.communicate()
    return len(out.splitlines())


def main(once: bool) -> None:
    application = QApplication(sys.argv)
    loop = aioqemu_loop.new_event_loop(g_source=True)
    driver = QtDriver(loop.context.get_g_source())
    button = QPushButton("Download")
    tasks = set()

    async def clicked() -> None:
        button.setText("...")
        count = await download(10_000)
        button.setText(f"{count} lines read while Qt ran")
        print(button.text())
        if once:
            application.quit()

    def start() -> None:
        task = loop.create_task(clicked())
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    button.clicked.connect(start)
    button.show()
    if once:
        QTimer.singleShot(1, button.click)
    application.exec()
    driver.close()
    for task in tasks:
        task.cancel()
    loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    loop.close()


if __name__ == "__main__":
    main("--once" in sys.argv)
