"""How should PyTorch's threads wait for each other? Training `nano` on a quiet machine and beside four busy processes.

    python nbs/13_threads.py              # about fifteen minutes; nothing else should run. Writes results/training/threads.json
    python nbs/13_threads.py --smoke      # a second each, nothing written

Ways take turns, so that whatever disturbs one disturbs all; a figure is the median of five turns. Each turn is a process of its
own, since the way of waiting is read when torch is imported: six steps to get going, then as many as fit into some seconds.
"""
import argparse, json, os, platform, statistics, subprocess, sys, time
from datetime import date
from pathlib import Path

ROWS, LENGTH = 4, 512
WAYS = { # name: (environment, processes)
    'one thread':       (dict(OMP_NUM_THREADS='1'), 1),
    'passive':          (dict(OMP_WAIT_POLICY='PASSIVE'), 1),
    'spin 1,000':       (dict(GOMP_SPINCOUNT='1000'), 1),
    'spin 10,000':      (dict(GOMP_SPINCOUNT='10000'), 1),
    'spin 30,000':      (dict(GOMP_SPINCOUNT='30000'), 1),
    'spin 100,000':     (dict(GOMP_SPINCOUNT='100000'), 1),
    'as torch comes':   (dict(), 1),
    'active':           (dict(OMP_WAIT_POLICY='ACTIVE'), 1),
    'two processes':    (dict(OMP_NUM_THREADS='1'), 2),
}
OWN = 'OMP_WAIT_POLICY', 'GOMP_SPINCOUNT', 'OMP_NUM_THREADS', 'MKL_NUM_THREADS'

def work(seconds):
    "Train for so many seconds; print bytes per second, of all processes together."
    import torch                                                  # before pico, which would set how threads wait
    from pico.data import batch, load_corpus
    from pico.model import Pico, PicoConfig
    from pico.parallel import added, agree, join, leave, waiting
    from pico.train import TrainConfig, backward, make_optimizer
    rank, size = join()
    torch.manual_seed(0)
    design = dict(router='space', latent_carry='yes', heads='chained', heads_every=32)
    model = Pico(PicoConfig.preset('nano', **design)).train()
    corpus, loss = load_corpus('stories', limit=900_000), added(model, model.loss)
    optimizer = make_optimizer(model, TrainConfig(optimizer='soap', learning_rate=8e-3))
    def step(i):
        backward(model, [batch(corpus, i, ROWS, LENGTH, model.config.next_tokens, rank=rank, world_size=size)], loss=loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.)
        with waiting(): optimizer.step()
        optimizer.zero_grad()
    for i in range(6): step(i)
    start, steps, done = time.perf_counter(), 0, False
    while not done:
        step(6 + steps)
        steps += 1
        done, = agree([time.perf_counter() - start >= seconds])
    if rank == 0: print(steps * ROWS * LENGTH / (time.perf_counter() - start))
    leave()

def turn(way, seconds):
    "One process, or several that torchrun starts."
    environment, processes = WAYS[way]
    env = {k: v for k, v in os.environ.items() if k not in OWN} | environment
    start = [sys.executable] if processes == 1 else [sys.executable, '-m', 'torch.distributed.run', '--standalone', f'--nproc_per_node={processes}']
    done = subprocess.run([*start, __file__, '--work', str(seconds)], env=env, capture_output=True, text=True)
    if done.returncode: sys.exit(done.stderr)
    return float(done.stdout.split()[-1])

def measure(turns, seconds, ways=WAYS):
    "Bytes per second of every turn, in both situations."
    found = {}
    for situation in ('quiet', 'beside four busy processes'):
        busy = [subprocess.Popen([sys.executable, '-c', 'while True: pass']) for _ in range(4 * (situation != 'quiet'))]
        try:
            found[situation] = {way: [] for way in ways}
            for _ in range(turns):
                for way in ways: found[situation][way].append(turn(way, seconds))
                print(situation, {w: round(statistics.median(v)) for w, v in found[situation].items()}, flush=True)
        finally:
            for b in busy: b.kill()
    return found

def main():
    p = argparse.ArgumentParser()
    p.add_argument('--work', type=float)
    p.add_argument('--turns', type=int, default=5)
    p.add_argument('--seconds', type=float, default=5)
    p.add_argument('--smoke', action='store_true')
    a = p.parse_args()
    if a.work is not None: return work(a.work)
    if a.smoke: return measure(1, .2, ['one thread'])
    result = dict(bytes_per_second=measure(a.turns, a.seconds), turns=a.turns, seconds=a.seconds, command='python nbs/13_threads.py',
                  date=str(date.today()), processors=os.cpu_count(), machine=processor(), python=platform.python_version())
    file = Path(__file__).parent/'results'/'training'/'threads.json'
    file.write_text(json.dumps(result, indent=1) + '\n')

def processor():
    "What the processor calls itself, where the system says so."
    try: return next(l.split(':')[1].strip() for l in open('/proc/cpuinfo') if l.startswith('model name'))
    except (OSError, StopIteration): return platform.machine()

if __name__ == '__main__': main()
