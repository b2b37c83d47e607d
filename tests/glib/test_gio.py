"""Gio in the thread of an asyncio loop: processes, calls over a private D-Bus, and an application's run()."""

from __future__ import annotations

import asyncio
import subprocess

import pytest

from .real import Gio, GLib, glib

BUS_CONFIG = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>session</type>
  <listen>unix:dir={folder}</listen>
  <policy context="default">
    <allow send_destination="*" eavesdrop="true"/>
    <allow eavesdrop="true"/>
    <allow own="*"/>
  </policy>
</busconfig>
"""

INTERFACE = """<node><interface name="org.example.Echo">
  <method name="Echo"><arg type="s" direction="in"/><arg type="s" direction="out"/></method>
</interface></node>"""


@pytest.fixture
def bus(tmp_path):
    """The address of a D-Bus daemon of this test's own."""
    config = tmp_path / "bus.conf"
    config.write_text(BUS_CONFIG.format(folder=tmp_path))
    try:
        daemon = subprocess.Popen(
            ["dbus-daemon", f"--config-file={config}", "--nofork", "--nopidfile", "--print-address"],
            stdout=subprocess.PIPE,
            text=True,
        )
    except FileNotFoundError:
        pytest.skip("dbus-daemon is missing")
    yield daemon.stdout.readline().strip()
    daemon.terminate()
    daemon.wait()
    daemon.stdout.close()


@pytest.fixture
def no_leaks():
    """GLib opens fds for threads of its own when they are first needed, and keeps them."""


def gio(begin, finish):
    """A coroutine for Gio's pairs of X_async(..., cancellable, callback) and X_finish(result)."""
    done = asyncio.get_running_loop().create_future()

    def ready(source, result):
        try:
            value = finish(result)
        except GLib.Error as exc:
            done.set_exception(exc)
        else:
            done.set_result(value)

    begin(None, ready)
    return done


class TestGio:
    def test_processes(self, run):
        async def one(number):
            child = Gio.Subprocess.new(
                ["sh", "-c", f"cat; exit {number}"], Gio.SubprocessFlags.STDIN_PIPE | Gio.SubprocessFlags.STDOUT_PIPE
            )
            text = f"{number}\n" * 1000
            _, out, _ = await gio(
                lambda *rest: child.communicate_utf8_async(text, *rest), child.communicate_utf8_finish
            )
            assert out == text
            await gio(child.wait_async, child.wait_finish)
            return child.get_exit_status()

        async def main():
            asyncio_child = await asyncio.create_subprocess_exec("sh", "-c", "exit 7")
            statuses = await asyncio.gather(*(one(number) for number in range(6)))
            return [*statuses, await asyncio_child.wait()]

        assert run(main()) == [0, 1, 2, 3, 4, 5, 7]

    def test_calls_over_a_private_bus(self, run, bus):
        flags = Gio.DBusConnectionFlags.AUTHENTICATION_CLIENT | Gio.DBusConnectionFlags.MESSAGE_BUS_CONNECTION

        def called(connection, sender, path, interface, method, parameters, invocation):
            invocation.return_value(GLib.Variant("(s)", (parameters[0][::-1],)))

        async def connect():
            return await gio(
                lambda *rest: Gio.DBusConnection.new_for_address(bus, flags, None, *rest),
                Gio.DBusConnection.new_for_address_finish,
            )

        async def main():
            server, client = await connect(), await connect()
            node = Gio.DBusNodeInfo.new_for_xml(INTERFACE)
            registration = server.register_object("/echo", node.interfaces[0], called, None, None)

            few = asyncio.Semaphore(4)  # answers that a connection may wait for; dbus-daemon has a limit

            async def call(text):
                async with few:
                    answer = await gio(
                        lambda *rest: client.call(
                            server.get_unique_name(),
                            "/echo",
                            "org.example.Echo",
                            "Echo",
                            GLib.Variant("(s)", (text,)),
                            GLib.VariantType("(s)"),
                            Gio.DBusCallFlags.NONE,
                            5000,
                            *rest,
                        ),
                        client.call_finish,
                    )
                    return answer[0]

            answers = await asyncio.gather(*(call(f"text {number}") for number in range(300)))
            assert answers == [f"text {number}"[::-1] for number in range(300)]
            with pytest.raises(GLib.Error):
                await gio(
                    lambda *rest: client.call(
                        server.get_unique_name(), "/none", "org.example.Echo", "Echo", None, None, 0, 5000, *rest
                    ),
                    client.call_finish,
                )
            server.unregister_object(registration)
            for connection in (client, server):
                await gio(connection.close, connection.close_finish)

        run(main())

    def test_an_application(self, guest_loop):
        """Gio.Application.run(), which Gtk.Application's is, runs the loop."""
        application = Gio.Application(application_id=None, flags=Gio.ApplicationFlags.NON_UNIQUE)
        results = []

        async def work():
            for number in range(5):
                await asyncio.sleep(0.001)
                results.append(number)
            application.quit()

        application.connect("activate", lambda _: (application.hold(), glib.create_task(work())))
        with glib.attach(guest_loop):
            assert application.run([]) == 0
        assert results == [0, 1, 2, 3, 4]
