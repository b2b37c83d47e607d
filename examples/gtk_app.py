"""asyncio inside a GTK application (4 or 3): coroutines as signal handlers.

    python examples/gtk_app.py          # a window with a button; close it to end
    python examples/gtk_app.py --once   # one press of the button, then the end (what the tests run)

Needs PyGObject (pip install '.[glib]') and GTK's typelib (Debian: gir1.2-gtk-4.0).
"""

from __future__ import annotations

import asyncio
import sys

import gi

try:
    gi.require_version("Gtk", "4.0")
except ValueError:
    gi.require_version("Gtk", "3.0")
from gi.repository import GLib, Gtk

import aioqemu_loop
from aioqemu_loop import glib


async def slow_work(label: Gtk.Label) -> str:
    """Three steps and a child process, while the window goes on to be drawn."""
    for step in range(3):
        label.set_text(f"step {step}")
        await asyncio.sleep(0.01)
    child = await asyncio.create_subprocess_exec("echo", "done by a child", stdout=asyncio.subprocess.PIPE)
    out, _ = await child.communicate()
    return out.decode().strip()


class Application(Gtk.Application):
    def __init__(self, once: bool) -> None:
        super().__init__()
        self.once = once
        self.label = Gtk.Label(label="asyncio in GTK")

    def do_activate(self) -> None:
        window = Gtk.ApplicationWindow(application=self)
        box = Gtk.Box(orientation=Gtk.Orientation.VERTICAL)
        button = Gtk.Button(label="Work")
        button.connect("clicked", self.clicked)
        for widget in (self.label, button):
            box.append(widget) if hasattr(box, "append") else box.add(widget)
        window.set_child(box) if hasattr(window, "set_child") else window.add(box)
        window.present() if Gtk.get_major_version() >= 4 else window.show_all()
        if self.once:
            GLib.idle_add(lambda: button.emit("clicked"))

    def clicked(self, button: Gtk.Button) -> None:
        glib.create_task(self.work())

    async def work(self) -> None:
        self.label.set_text(await slow_work(self.label))
        print(self.label.get_text())
        if self.once:
            self.quit()


def main(once: bool) -> None:
    loop = aioqemu_loop.new_event_loop(g_source=True)
    with glib.attach(loop):
        Application(once).run(None)
    loop.close()


if __name__ == "__main__":
    main("--once" in sys.argv)
