"""Child processes for tests.

Forked, so that nothing has to be imported again; one thread each, so that sums have one order."""
import ctypes
import os
import signal
import sys
import time
import traceback
import uuid
from pathlib import Path
import torch
from pico.core import InputError

ALIVE = set()

def clean():
    "End what a failed test has left running."
    for pid in list(ALIVE):
        try:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        except (ProcessLookupError, ChildProcessError): pass
    ALIVE.clear()

def reap(pid, flags=0):
    "os.waitpid, and a note of who has ended."
    done, status = os.waitpid(pid, flags)
    if done: ALIVE.discard(pid)
    return done, status

def start(f, said=None):
    "Run f() in a child; its InputError becomes status 2 and the text of the file `said`. Returns the child's id."
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        ALIVE.add(pid)
        return pid
    status = 1
    if sys.platform == 'linux': ctypes.CDLL(None).prctl(1, signal.SIGKILL)        # die with the parent
    try:
        torch.set_num_threads(1)
        f()
        status = 0
    except InputError as e:
        status = 2
        if said: Path(said).write_text(str(e))
    except BaseException:
        traceback.print_exc()
    finally: os._exit(status)

def wait(pid, timeout=60):
    "Exit status of a child, negative if a signal ended it; one that hangs is killed."
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        done, status = reap(pid, os.WNOHANG)
        if done: return os.waitstatus_to_exitcode(status)
        time.sleep(.005)
    os.kill(pid, signal.SIGKILL)
    reap(pid)
    raise AssertionError(f'the child did not end within {timeout} s')

def run(f, said=None, timeout=60): return wait(start(f, said), timeout)

def killed(f, when, timeout=60):
    "Run f() in a child and kill it with SIGKILL once when() is true; returns True, or False if it ended before."
    pid, end = start(f), time.monotonic() + timeout
    while time.monotonic() < end:
        done, status = reap(pid, os.WNOHANG)
        if done:
            assert os.waitstatus_to_exitcode(status) == 0
            return False
        if when(): break
        time.sleep(.001)
    os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(reap(pid)[1]) == -signal.SIGKILL

def after(seconds):
    "A condition that becomes true so many seconds from its first question."
    end = []
    def when():
        if not end: end.append(time.monotonic() + seconds)
        return time.monotonic() >= end[0]
    return when

def group(n, f, folder, said=None):
    "Start n children that are joined as processes of one group (gloo); f(rank) runs in each. Returns their ids."
    import torch.distributed as dist
    meet = Path(folder)/f'meet-{uuid.uuid4().hex}'
    def child(rank):
        def go():
            dist.init_process_group('gloo', init_method=f'file://{meet}', rank=rank, world_size=n)
            f(rank)
        return go
    return [start(child(r), said and f'{said}{r}') for r in range(n)]

def until(condition, timeout=60):
    "Wait for something that another process does."
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, f'nothing happened within {timeout} s'
        time.sleep(.002)
