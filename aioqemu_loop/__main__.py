"""python -m aioqemu_loop"""

import sys

from aioqemu_loop.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
