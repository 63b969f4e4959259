"""What the process asks of the C library and of the interpreter: memory comes back, and the loop gets its turn."""

from __future__ import annotations

import ctypes
import itertools
import statistics
import subprocess
import sys
import threading
import time

import pytest

from gateway.app import serve

FRAGMENTS = """
import threading
from pathlib import Path
from gateway.app import serve

if {returns}:
    serve._return_freed_memory()

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

def read():
    # As bodies are read in a thread: large blocks, and small ones between them that stay.
    kept.append([bytes(200) for _ in range(50)])
    large = []
    for _ in range(12):
        large.append(bytearray(4_000_000))
        kept.append([bytes(60_000) for _ in range(4)])

bytearray(30_000_000)  # freed: glibc takes it as a sign that blocks of this size are better kept
before, kept = resident(), []
for _ in range(4):
    thread = threading.Thread(target=read)
    thread.start()
    thread.join()
print(resident() - before)
"""


def growth(*, returns: bool) -> int:
    """What a process holds after large bodies were freed, in bytes."""
    code = FRAGMENTS.format(returns=returns)
    return int(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="not glibc")
def test_freed_memory_goes_back_to_the_system() -> None:
    # 48 MB were freed by each thread. In a fuzz of two minutes, this was 330 MB instead of 100.
    kept = 4 * 12 * 4 * 60_000
    assert growth(returns=True) < kept + 12_000_000
    assert growth(returns=False) > kept + 30_000_000, "else the setting is of no use any more"


RECEIVING = """
import asyncio, resource, socket
from gateway.app import serve

serve._return_freed_memory()

class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
    def data_received(self, data):
        self.transport.write(data)

async def main():
    server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    for number in range(400):
        if number == 200:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        writer.write(b"x")
        await reader.readexactly(1)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    writer.close()
    server.close()

asyncio.run(main())
"""


def test_receiving_a_request_maps_no_memory() -> None:
    # asyncio receives into a new block of 256 KiB each time; one that the C library maps costs page faults.
    faults = int(subprocess.run([sys.executable, "-c", RECEIVING], check=True, capture_output=True, text=True).stdout)
    assert faults < 100, "for 200 requests and as many responses"


SWITCHES = """
import asyncio, os, signal, sys
from types import SimpleNamespace
from gateway.app import serve

class Runtime:
    results = SimpleNamespace(
        organisation=SimpleNamespace(read_soon=lambda: None), identities=SimpleNamespace(begin=lambda: None)
    )
    async def start(self): pass
    async def stop(self): pass

async def started():
    print(sys.getswitchinterval())
    os.kill(os.getpid(), signal.SIGTERM)

asyncio.run(serve.run(Runtime(), started))
"""


def test_threads_that_compute_give_way_to_the_loop() -> None:
    # With Python's 5 ms, three such threads delayed one /ping in twenty by 60 ms, and now and then by much more.
    done = subprocess.run([sys.executable, "-c", SWITCHES], check=False, capture_output=True, text=True)
    assert float(done.stdout) <= serve.SWITCH_SECONDS, done.stderr


def test_between_two_events_of_the_loop_a_thread_that_computes_gets_little_time() -> None:
    # uvloop takes the interpreter anew for each event of a socket. With 1 ms, the bodies of 200 callers that came at
    # once, and a CSV that was rendered meanwhile, stopped the loop for half a second.
    stopped = threading.Event()

    def compute() -> None:
        while not stopped.is_set():
            sum(range(100))

    thread = threading.Thread(target=compute)
    before = sys.getswitchinterval()
    sys.setswitchinterval(serve.SWITCH_SECONDS)
    try:
        thread.start()
        assert thread.ident is not None
        clock = time.pthread_getcpuclockid(thread.ident)
        used = [time.clock_gettime(clock)]
        for _ in range(200):
            time.sleep(0.000_02)  # the loop waits for the system, as for a read
            used.append(time.clock_gettime(clock))
    finally:
        stopped.set()
        thread.join()
        sys.setswitchinterval(before)
    assert statistics.median(after - then for then, after in itertools.pairwise(used)) < 0.000_5
