__version__ = "0.1.0"

# How PyTorch's threads wait for each other is read once, when torch is imported, so it is set here (chapter 13).
import os
import time

def other_tasks():
    "How many tasks besides this one want a processor: the middle of five looks; 0 where the system does not say."
    looks = []
    for _ in range(5):
        try:
            with open('/proc/stat') as f: words = [line.split() for line in f]
            looks += [int(w[1]) - 1 for w in words if w[0] == 'procs_running']
        except (OSError, ValueError): pass
        time.sleep(.002)
    return sorted(looks)[len(looks)//2] if looks else 0

def wait_briefly():
    "Spin for a while before going to sleep, or not at all on a machine that is busy. What the user has set stands."
    if {'OMP_WAIT_POLICY', 'GOMP_SPINCOUNT'} & os.environ.keys(): return
    if other_tasks() >= (os.cpu_count() or 1) / 2: os.environ['OMP_WAIT_POLICY'] = 'PASSIVE'
    else: os.environ['GOMP_SPINCOUNT'] = '10000'

wait_briefly()
