"""How should PyTorch's threads wait for each other? Training `nano` on a quiet machine and beside four busy processes.

    python nbs/13_threads.py              # about fifteen minutes; nothing else should run. Writes results/training/threads.json;
                                          # stopped, it goes on after the last turn that was finished
    python nbs/13_threads.py --smoke      # a second each, nothing written

Ways take turns, so that whatever disturbs one disturbs all; a figure is the median of five turns. Each turn is a process of its
own, since the way of waiting is read when torch is imported: two steps to get going, then as many as fit into four seconds.
The busy processes run in another session than the training, as programs of another window or user do: Linux shares processors
between sessions first.
"""
import argparse, contextlib, itertools, json, os, platform, signal, statistics, subprocess, sys, threading, time
from datetime import date
from pathlib import Path

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

def work():
    "Train until somebody ends this process; after each step print how many bytes all processes together have read."
    if os.environ.get('PICO_CHOOSES'): import pico                # before torch: then it sets how threads wait
    import torch
    from pico.batches import batch
    from pico.sources import load_corpus
    from pico.model import Pico, PicoConfig
    from pico.parallel import added, join, waiting
    from pico.train import TrainConfig, backward, make_optimizer
    rank, size = join()
    torch.manual_seed(0)
    design = dict(router='space', latent_carry='yes', heads='chained', heads_every=32)
    model = Pico(PicoConfig.preset('nano', **design)).train()
    corpus, loss = load_corpus('stories', limit=900_000), added(model, model.loss)
    optimizer = make_optimizer(model, TrainConfig(optimizer='soap', learning_rate=8e-3))
    for i in itertools.count():
        backward(model, [batch(corpus, i, ROWS, LENGTH, model.config.next_tokens, rank=rank, world_size=size)],
                 loss=loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.)
        with waiting(): optimizer.step()
        optimizer.zero_grad()
        if rank == 0: print((i + 1) * ROWS * LENGTH, time.monotonic(), flush=True)

def turn(way, seconds):
    "Bytes per second from the third step on, of one process, or of several that torchrun starts; it is ended after some seconds."
    environment, processes = WAYS[way]
    env = {k: v for k, v in os.environ.items() if k not in OWN} | environment
    start = [sys.executable] if processes == 1 else [sys.executable, '-m', 'torch.distributed.run', '--standalone',
                                                     f'--nproc_per_node={processes}']
    p = subprocess.Popen([*start, __file__, '--work'], env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                         text=True, start_new_session=True)
    # for one that takes no three steps
    seen, latest = [], threading.Timer(20 + seconds, os.killpg, (p.pid, signal.SIGKILL))
    latest.start()
    for line in p.stdout:
        if not line[0].isdigit(): continue
        seen.append([float(v) for v in line.split()])
        if len(seen) > 3 and seen[-1][1] > seen[2][1] + seconds: break
    latest.cancel()
    with contextlib.suppress(ProcessLookupError): os.killpg(p.pid, signal.SIGKILL)
    p.wait()
    if len(seen) < 2: return len(seen) * ROWS * LENGTH / (20 + seconds)      # starved: hardly a step, or none
    first = seen[min(2, len(seen) - 2)]
    return (seen[-1][0] - first[0]) / (seen[-1][1] - first[1])

def measure(turns, seconds, save, found, ways=WAYS):
    "Bytes per second of every turn, in both situations; what `found` holds already is kept."
    for situation in ('quiet', 'beside four busy processes'):
        mine = found.setdefault(situation, {way: [] for way in ways})
        busy = [subprocess.Popen([sys.executable, '-c', 'while True: pass']) for _ in range(4 * (situation != 'quiet'))]
        try:
            for _ in range(turns - min(map(len, mine.values()))):
                for way in ways: mine[way].append(turn(way, seconds))
                save(found)
                print(situation, {w: round(statistics.median(v)) for w, v in mine.items()}, flush=True)
        finally:
            for b in busy: b.kill()

def main():
    p = argparse.ArgumentParser()
    p.add_argument('--work', action='store_true')
    p.add_argument('--turns', type=int, default=5)
    p.add_argument('--seconds', type=float, default=4)
    p.add_argument('--smoke', action='store_true')
    a = p.parse_args()
    if a.work: return work()
    if a.smoke: return measure(1, .2, print, {}, ['one thread'])
    file = Path(__file__).parent/'results'/'training'/'threads.json'
    def save(found):
        result = dict(bytes_per_second=found, turns=a.turns, seconds=a.seconds, command='python nbs/13_threads.py',
                      date=str(date.today()),
                      processors=os.cpu_count(), machine=processor(), python=platform.python_version())
        file.write_text(json.dumps(result, indent=1) + '\n')
    measure(a.turns, a.seconds, save, json.loads(file.read_text())['bytes_per_second'] if file.exists() else {})

def processor():
    "What the processor calls itself, where the system says so."
    try: return next(l.split(':')[1].strip() for l in open('/proc/cpuinfo') if l.startswith('model name'))
    except (OSError, StopIteration): return platform.machine()

if __name__ == '__main__': main()
