"""How fast does it learn, beside others and beside what this machine can compute? All cores; nothing else may run.

    python nbs/experiments/speed.py --text FILE                   # without the others
    python nbs/experiments/speed.py --text FILE --original DIR --nanogpt DIR --megabyte DIR

FILE is an English text of about a megabyte (tinyshakespeare, as nanoGPT downloads it); the DIRs are copies of the
others' public repositories, see peers.py. Everything is measured once in each of three turns, one after the other, and
written down at once, so that a command that was stopped goes on; a turn takes about twenty minutes. All goes into one
line, and `--show` prints its medians. Shares are of the machine's own rate of large matrix products at that moment.
"""
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pico                                                       # before torch: it sets how threads wait
import torch
from common import HERE, LEARNED, NANO, NANO_TRAINING, config, parse, parser, processor, sha256, stamp, train_step
from demo import reached
from peers import divided

from pico.batches import batch
from pico.costs import flops_per_byte
from pico.data import Corpus
from pico.evaluate import bits_per_byte
from pico.model import Pico
from pico.run import TrainConfig
from pico.sources import load_corpus
from pico.train import make_optimizer, train

def matrix_rate(n=2048, times=12):
    "Floating-point operations a second of products of large matrices, the best of several."
    a, best = torch.randn(n, n), 0.
    for _ in range(times):
        start = time.perf_counter()
        a @ a
        best = max(best, 2*n**3 / (time.perf_counter() - start))
    return best

def steps(shape, rows, length, n):
    "Bytes a second over n steps of SOAP after some to warm up, and the share of the machine's rate."
    torch.manual_seed(0)
    corpus, model = load_corpus('stories', limit=2_000_000), Pico(config('xs', **shape)).train()
    model.latent.router.begin(corpus)
    optimizer, routed = make_optimizer(model, TrainConfig(optimizer='soap')), []
    for i in range(3 + n):
        if i == 3: start = time.perf_counter()
        told, _ = train_step(model, optimizer, *batch(corpus, i, rows, length, model.config.next_tokens), lr=1e-3)
        routed.append(told['routed'])
    seconds = (time.perf_counter() - start) / n
    speed = rows * length / seconds
    return dict(bytes_per_second=speed, seconds=seconds, parameters=model.num_parameters(),
                share=speed * flops_per_byte(model.config, statistics.mean(routed)) / matrix_rate())

def learned(file, seconds, **shape):
    "Bits per byte of the last tenth, causal, after so many seconds of `nano`."
    train_bytes, held_out = divided(file)
    corpus = Corpus.from_bytes(train_bytes)
    settings = TrainConfig(optimizer='soap', **NANO_TRAINING, max_minutes=seconds / 60, validation_interval=0)
    with tempfile.TemporaryDirectory() as d:
        # a corpus made of bytes has no text held out: what is scored when time is up counts for nothing
        model = train(Path(d)/'run', corpus, config('nano', **NANO | shape), settings, validation=corpus,
                      progress=False)
    score = bits_per_byte(model, held_out)
    return dict(bpb=score.bpb, nats=score.bpb * math.log(2), seconds=seconds)

def demo(minutes):
    "What `make demo` reaches, and the floor of the same bytes."
    with tempfile.TemporaryDirectory() as d: row = reached('rising', Path(d)/'run', minutes)
    floor = load_corpus('stories', 'validation', limit=row['bytes']).floor
    return dict(bpb=row['bpb'], floor=floor, over=row['bpb'] - floor, steps=row['steps'])

def peer(name, a, *more):
    "What peers.py says of one, in a process of its own."
    command = [sys.executable, str(HERE/'peers.py'), name, getattr(a, name), '--text', a.text, *more]
    r = subprocess.run(command, capture_output=True, text=True)
    if r.returncode: raise RuntimeError(f'{name}: {(r.stderr or r.stdout).strip().splitlines()[-1]}')
    return json.loads(r.stdout.strip().splitlines()[-1])

def measurements(a):
    "name -> function of what this turn has found so far"
    xs = dict(dim=144)
    of_original = dict(router='topk', latent_capacity_factor=.25, latent_carry='no', heads='linear', heads_every=1)
    n, seconds, minutes = (1, 2., .03) if a.smoke else (20, 300., 3.)
    size = (2, 64) if a.smoke else (8, 1024)
    found = dict(rate=lambda _: dict(gflops=matrix_rate(512 if a.smoke else 2048) / 1e9),
                 nano=lambda _: steps(NANO, *((2, 64) if a.smoke else (4, 512)), 5*n),
                 xs_original=lambda _: steps(xs | of_original, *size, n),
                 xs=lambda _: steps(xs | LEARNED | dict(positions='relative', heads_every=16), *size, n),
                 megabyte_time=lambda _: learned(a.text, seconds),
                 demo=lambda _: demo(minutes))
    if a.original: found['original'] = lambda _: peer('original', a)
    if a.megabyte: found['megabyte'] = lambda _: peer('megabyte', a, '--seconds', str(seconds))
    if a.nanogpt:
        found['nanogpt'] = lambda _: peer('nanogpt', a)
        for part in (1, 4, 8):
            found[f'nanogpt_time/{part}'] = (lambda turn, part=part:
                                             learned(a.text, turn['nanogpt']['seconds'] / part, next_tokens=1))
    return found

def medians(turns):
    "The middle of every number over the turns."
    return {k: {f: statistics.median(t[k][f] for t in turns if k in t) for f in v} for k, v in turns[0].items()}

def show(row):
    "The table, in words."
    m = medians(row['turns'])
    def line(what, text): print(f'{what:44s} {text}')
    line('large matrix products', f"{m['rate']['gflops']:.0f} GFLOP/s")
    line('nano', f"{m['nano']['bytes_per_second']:,.0f} bytes/s, {m['nano']['share']:.0%} of the matrix rate")
    for k, what in (('xs_original', "xs, dim 144, the original's design"), ('xs', 'xs, dim 144, default design')):
        text = f"{m[k]['bytes_per_second']:,.0f} bytes/s, {m[k]['share']:.0%}"
        if 'original' in m: text += f", {m['original']['seconds'] / m[k]['seconds']:.2f} times the original's"
        line(what, text)
    if 'nanogpt' in m:
        n, (whole, quarter, eighth) = m['nanogpt'], (m[f'nanogpt_time/{part}'] for part in (1, 4, 8))
        line("nanoGPT's recipe", f"{n['nats']:.3f} nats in {n['seconds']:.0f} s")
        line('nano, one head, equal time', f"{whole['nats']:.3f} nats")
        line('a quarter and an eighth of it', f"{quarter['nats']:.3f} and {eighth['nats']:.3f} nats")
    own = m['megabyte_time']
    line(f"nano, {own['seconds']:.0f} seconds", f"{own['bpb']:.3f} bits per byte")
    if 'megabyte' in m: line('MegaByte, the same', f"{m['megabyte']['bpb']:.3f} bits per byte")
    line('make demo', f"{m['demo']['bpb']:.4f} bits per byte, {m['demo']['over']:.4f} over the floor")

def main(args=None):
    p = parser(__doc__)
    p.add_argument('--text', metavar='FILE', help='an English text')
    for name in ('original', 'nanogpt', 'megabyte'): p.add_argument(f'--{name}', metavar='DIR', help='see peers.py')
    p.add_argument('--turns', type=int, default=3)
    p.add_argument('--show', action='store_true', help='print what was found')
    a = parse(p, __file__, args)
    torch.set_num_threads(os.cpu_count() or 1)                    # `parse` made it one
    row = a.results.find('speed') or dict(name='speed', turns=[])
    if a.show: return show(row)
    if not a.text: p.error('--text FILE is needed')
    how = stamp(a.command, dict(source=Path(a.text).name, sha256=sha256(a.text)), os.cpu_count())
    how['device'] = f'{processor()}, {os.cpu_count()} cores, pico {pico.__version__}'
    for i in range(1 if a.smoke else a.turns):
        if i == len(row['turns']): row['turns'].append({})
        turn = row['turns'][i]
        for name, measure in measurements(a).items():
            if name in turn: continue
            turn[name] = measure(turn)
            a.results.add(row | how)
            print(i, name, turn[name], flush=True)
    show(row)

if __name__ == '__main__': main()
