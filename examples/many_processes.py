"""A server of several processes on one port: SO_REUSEPORT, a loop in each. One that dies is started anew.

python examples/many_processes.py [--port 8888] [--processes 4]     # and then: nc localhost 8888
python examples/many_processes.py --once                            # asks many times who answers, and ends
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import signal
import socket
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess

import aioqemu_loop

spawn = multiprocessing.get_context("spawn")  # no loop and no lock is inherited half-way


async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(f"process {os.getpid()}\n".encode())
    await writer.drain()
    writer.close()


async def serve(port: int) -> None:
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    async with await asyncio.start_server(handle, "127.0.0.1", port, reuse_port=True):
        await stopped.wait()


def worker(port: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; the parent decides
    aioqemu_loop.run(serve(port))


def start(port: int) -> BaseProcess:
    process = spawn.Process(target=worker, args=(port,))
    process.start()
    return process


async def who_answers(port: int, processes: int) -> set[bytes]:
    """Asks until every process has answered."""
    answers: set[bytes] = set()
    while len(answers) < processes:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        except ConnectionRefusedError:  # none listens yet
            await asyncio.sleep(0.05)
            continue
        answers.add(await reader.readline())
        writer.close()
        await writer.wait_closed()
    return answers


def supervise(port: int, workers: list[BaseProcess]) -> None:
    while True:
        wait([process.sentinel for process in workers])
        for i, process in enumerate(workers):
            if not process.is_alive():
                print(f"process {process.pid} ended with {process.exitcode}; another one starts", flush=True)
                workers[i] = start(port)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0, help="0: any free one")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--once", action="store_true")
    arguments = parser.parse_args()
    # Bound but not listening, this socket gets no connection; it keeps the port for the processes.
    with socket.socket() as reserved:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        reserved.bind(("127.0.0.1", arguments.port))
        port = reserved.getsockname()[1]
        print("port", port, flush=True)
        workers = [start(port) for _ in range(arguments.processes)]
        try:
            if arguments.once:
                print(len(aioqemu_loop.run(who_answers(port, len(workers)))), "processes have answered")
            else:
                supervise(port, workers)
        except KeyboardInterrupt:
            print("stopped")
        finally:
            for process in workers:
                process.terminate()
            for process in workers:
                process.join()


if __name__ == "__main__":
    main()
