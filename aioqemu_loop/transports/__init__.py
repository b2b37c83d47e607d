"""Bytes and protocols: stream transports, the engines under them, and listening sockets."""
