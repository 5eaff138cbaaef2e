"""How should PyTorch's threads wait for each other? Training `nano` on a quiet machine and beside four busy processes.

    python nbs/experiments/threads.py              # about fifteen minutes; nothing else should run. Stopped, it goes
                                                   # on after the last turn that was finished
    python nbs/experiments/threads.py --smoke      # a fraction of a second each

Ways take turns, so that whatever disturbs one disturbs all. A figure is the median of five turns. Each turn is a
process of its own, since the way of waiting is read when torch is imported: two steps to get going, then as many as fit
into four seconds. The busy processes run in another session than the training, as programs of another window or user
do: Linux shares processors between sessions first. (Chapter 13.)
"""
import argparse
import contextlib
import importlib
import itertools
import os
import platform
import signal
import statistics
import subprocess
import sys
import threading
import time

ROWS, LENGTH = 4, 512
WAYS = { # name: (environment, processes)
    'one thread':       (dict(OMP_NUM_THREADS='1'), 1),
    'passive':          (dict(OMP_WAIT_POLICY='PASSIVE'), 1),
    'spin 1,000':       (dict(GOMP_SPINCOUNT='1000'), 1),
    'spin 3,000':       (dict(GOMP_SPINCOUNT='3000'), 1),
    'spin 10,000':      (dict(GOMP_SPINCOUNT='10000'), 1),
    'spin 100,000':     (dict(GOMP_SPINCOUNT='100000'), 1),
    'as torch comes':   (dict(), 1),
    'active':           (dict(OMP_WAIT_POLICY='ACTIVE'), 1),
    'as pico chooses':  (dict(PICO_CHOOSES='1'), 1),
    'two processes':    (dict(OMP_NUM_THREADS='1'), 2),
}
OWN = 'OMP_WAIT_POLICY', 'GOMP_SPINCOUNT', 'OMP_NUM_THREADS', 'MKL_NUM_THREADS'
SITUATIONS = {'quiet': 0, 'beside four busy processes': 4}

# --- one turn: nothing is imported above that imports torch, since a turn has to choose what comes first

def work():
    "Train until somebody ends this process; after each step print how many bytes all processes together have read."
    if os.environ.get('PICO_CHOOSES'): importlib.import_module('pico')    # before torch: it sets how threads wait
    import torch
    from common import config

    from pico.sources import load_corpus
    from pico.batches import batch
    from pico.model import Pico
    from pico.parallel import added, join_group, no_sync
    from pico.train import TrainConfig, backward, make_optimizer
    rank, size = join_group()
    torch.manual_seed(0)
    design = dict(router='space', latent_carry='yes', heads='chained', heads_every=32)
    model = Pico(config('nano', **design)).train()
    corpus, loss = load_corpus('stories', limit=900_000), added(model, model.loss)
    optimizer = make_optimizer(model, TrainConfig(optimizer='soap', learning_rate=8e-3))
    for i in itertools.count():
        x, y = batch(corpus, i, ROWS, LENGTH, model.config.next_tokens, rank=rank, world_size=size)
        backward(model, [(x, y)], loss=loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.)
        with no_sync(): optimizer.step()
        optimizer.zero_grad()
        if rank == 0: print((i + 1) * ROWS * LENGTH, time.monotonic(), flush=True)

def turn(way, seconds, patience=20):
    "Bytes per second from the third step on, of one process or of several that torchrun starts; then they are ended."
    environment, processes = WAYS[way]
    env = {k: v for k, v in os.environ.items() if k not in OWN} | environment
    start = [sys.executable]
    if processes > 1: start += ['-m', 'torch.distributed.run', '--standalone', f'--nproc_per_node={processes}']
    p = subprocess.Popen([*start, __file__, '--work'], env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                         text=True, start_new_session=True)
    # for one that takes no three steps
    latest = threading.Timer(patience + seconds, os.killpg, (p.pid, signal.SIGKILL))
    latest.start()
    seen = steps_seen(p.stdout, seconds)
    latest.cancel()
    with contextlib.suppress(ProcessLookupError): os.killpg(p.pid, signal.SIGKILL)
    p.wait()
    if len(seen) < 2: return len(seen) * ROWS * LENGTH / (patience + seconds)      # starved: hardly a step, or none
    first, last = seen[min(2, len(seen) - 2)], seen[-1]
    return (last[0] - first[0]) / (last[1] - first[1])

def steps_seen(lines, seconds):
    "(bytes read, time) after each step, until the third one is some seconds ago."
    seen = []
    for line in lines:
        if not line[0].isdigit(): continue
        seen.append([float(v) for v in line.split()])
        if len(seen) > 3 and seen[-1][1] > seen[2][1] + seconds: break
    return seen

# --- the experiment

def measure(turns, seconds, save, found, ways=WAYS):
    "Bytes per second of every turn, in both situations; what `found` holds already is kept."
    for situation, processes in SITUATIONS.items():
        mine = found.setdefault(situation, {way: [] for way in ways})
        busy = [subprocess.Popen([sys.executable, '-c', 'while True: pass']) for _ in range(processes)]
        try:
            for _ in range(turns - min(map(len, mine.values()))):
                for way in ways: mine[way].append(turn(way, seconds))
                save(found)
                print(situation, {w: round(statistics.median(v)) for w, v in mine.items()}, flush=True)
        finally:
            for b in busy: b.kill()

def experiment(args):
    from common import parse, parser, processor, stamp
    p = parser(__doc__)
    p.add_argument('--turns', type=int, default=5)
    p.add_argument('--seconds', type=float, default=4)
    a = parse(p, __file__, args)
    ways = WAYS
    if a.smoke: a.turns, a.seconds, ways = 1, .2, ['one thread']
    def save(found):
        threads = stamp(a.command, threads=os.cpu_count())
        a.results.add(dict(name='threads', bytes_per_second=found, turns=a.turns, seconds=a.seconds) | threads
                      | dict(processors=os.cpu_count(), machine=processor(), python=platform.python_version()))
    before = a.results.find('threads')
    measure(a.turns, a.seconds, save, before['bytes_per_second'] if before else {}, ways)

def main(args=None):
    p = argparse.ArgumentParser(add_help=False)
    p.add_argument('--work', action='store_true')
    a, rest = p.parse_known_args(args)
    if a.work: work()
    else: experiment(rest)

if __name__ == '__main__': main()
