"""The command line: `python -m aioqemu_loop`, also installed as `aioqemu-loop`."""
