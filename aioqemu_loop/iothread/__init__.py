"""IOThread: a thread with its own loop, after QEMU's; and pools of them that share a server's connections."""
