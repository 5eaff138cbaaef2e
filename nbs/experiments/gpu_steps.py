"""What gpu.py measures: one function for each thing, which returns what it finds.

A function knows the machine and the sizes from a `Here`. Without a GPU it takes its counterpart: the dense path stands
for FlexAttention, compiling ends with tracing, and what a CUDA graph would hold runs step by step.
"""
import contextlib
import gc
import math
import os
import re
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from unittest import mock

import torch
from attention_costs import RUNGS, cuda_peak, differences, in_turn
from attention_costs import step as attention_step
from captured import Captured
from common import HERE, Results, config, new_stories, source, text, train_step
from optimizers import competitors, step_times
from pace import TEMPERATURES, compare
from torch._dynamo.utils import counters

from pico.attention import attention_flex
from pico.batches import batch
from pico.data import MARKS
from pico.evaluate import bits_per_byte
from pico.generate import TorchDecoder, generate, stream
from pico.model import Pico
from pico.record import read_metrics
from pico.run import TrainConfig
from pico.costs import compile_model, flops_per_byte, pick_autocast
from pico.train import make_optimizer, train

ROOT = HERE.parent.parent
LEARNED = dict(router='rising', latent_capacity_factor=3/16, positions='relative', latent_carry=True,
               latent_summary=True, latent_shift=True, heads='chained', heads_every=16)
TINY = dict(dim=64, fb_num_blocks=1, latent_num_blocks=1)        # for --dry
BATCH = {'xs': 32, '10m': 8, '100m': 8}                          # rows of LENGTH bytes
LENGTH = 6144
PASSES = 1, 2, 4, 8, 16                                          # bytes read at once

class NotYet(Exception):
    "What a step needs is not there; it is left for another call."

@dataclass
class Here:
    "The machine, and what a step has to know."
    dry:bool
    results:Results
    runs:Path           # where trained models are kept
    end:float           # when the minutes are over, by `time.perf_counter`
    device:torch.device = field(default_factory=lambda: torch.device('cuda' if torch.cuda.is_available() else 'cpu'))
    rates:dict = field(default_factory=dict)

    @property
    def cuda(self): return self.device.type == 'cuda'

    def left(self): return (self.end - time.perf_counter()) / 60      # minutes

    def pick(self, real, dry): return dry if self.dry else real

    def clock(self):
        "Seconds, when everything that was started is done."
        if self.cuda: torch.cuda.synchronize()
        return time.perf_counter()

    def turns(self, runs, seconds): return in_turn(runs, self.device.type, self.pick(seconds, 0))

    def shape(self, preset): return config(preset, **LEARNED, **self.pick({}, TINY))

    def stories(self): return text('stories', limit=self.pick(None, 20_000))

    def ready(self, preset):
        "A new model whose router has looked at the text."
        torch.manual_seed(0)
        model = Pico(self.shape(preset)).to(self.device)
        model.latent.router.begin(self.stories())
        return model

    def rate(self, dtype):
        "Operations a second of a product of large square matrices, measured once in each call."
        if dtype not in self.rates:
            side = self.pick(8192, 128)
            m = torch.randn(side, side, device=self.device, dtype=getattr(torch, dtype))
            self.rates[dtype] = 2 * side**3 / self.turns({'product': lambda: m @ m}, 1)['product'] * 1e3
        return self.rates[dtype]

# --- what is measured

def matrix(h):
    "The yardstick, and what machine it is."
    found = dict(teraflops={d: h.rate(d) / 1e12 for d in ('bfloat16', 'float32')})
    if not h.cuda: return found
    p = torch.cuda.get_device_properties(h.device)
    return found | dict(memory_gb=p.total_memory / 1e9, capability=f'{p.major}.{p.minor}', cuda=torch.version.cuda)

def skipped_tests(h):
    "The tests that a machine without a GPU skips."
    files = [f for f in sorted((ROOT/'tests').glob('test_*.py')) if 'torch.cuda.is_available()' in f.read_text('utf-8')]
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get('PYTHONPATH')])])
    command = [sys.executable, '-m', 'pytest', '-q', '-rf', '-p', 'no:cacheprovider', '-k', 'gpu or cuda', *files]
    r = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=os.environ | dict(PYTHONPATH=path))
    counts = {k: int(n) for n, k in re.findall(r'(\d+) (passed|failed|skipped|error)', r.stdout)}
    if not counts: raise RuntimeError((r.stderr or r.stdout).strip().splitlines()[-1])
    failed = [line[:200] for line in r.stdout.splitlines() if line.startswith(('FAILED', 'ERROR'))]
    return dict(counts=counts, failures=failed)

def flex(h, heads, T, W, dtype):
    "FlexAttention (on a CPU the dense path, which can learn there) and the band: differences, times, memory."
    T, W, number = h.pick(T, 150), h.pick(W, 16), getattr(torch, dtype)
    def dense(q, k, v, W, s): return RUNGS['dense'](q, k, v, W, s, torch.arange(T))
    way, name = (attention_flex, 'FlexAttention') if h.cuda else (dense, 'dense')
    out, *grads = differences(T, W, number, h.device, way, heads=heads)
    forget()                                                      # or the next would be compiled for changing shapes
    runs = {n: attention_step(n, T, W, h.device, heads=heads, rows=h.pick(8, 2), dtype=number)
            for n in (name, 'band, fused')}
    memory = {n: cuda_peak(run) / 1e6 for n, run in runs.items()} if h.cuda else None
    return dict(heads=heads, T=T, W=W, dtype=dtype, rows=h.pick(8, 2), way=name, forward=out, gradient=max(grads),
                ms=h.turns(runs, 1), mb=memory)

# --- a training step

def graphs():
    "How many graphs torch.compile has made since `forget`."
    return counters['stats']['unique_graphs']

def traces():
    """What else it did: what broke graphs, and how many functions it gave up, as it does with those that it would have
    to compile too often. They run as they are; FlexAttention then holds all scores."""
    frames = counters['frames']
    return dict(breaks={' '.join(why.split())[:90]: n for why, n in counters['graph_break'].items()},
                gave_up=frames['total'] - frames['ok'])

def forget():
    "Make room: what was compiled, and memory that nothing holds."
    torch._dynamo.reset()
    counters.clear()
    gc.collect()
    if torch.cuda.is_available(): torch.cuda.empty_cache()

def compiled(h, model, x, cast):
    "As the package does it. On a CPU it is traced but not translated, which would take minutes."
    quick = contextlib.nullcontext()
    if not h.cuda: quick = mock.patch.object(torch, 'compile', partial(torch.compile, backend='eager'))
    with quick: compile_model(model, 'yes', x, cast)

def some_steps(h, preset, compile, rows):
    "AdamW's steps on different batches: medians after the first three."
    corpus, model, length = h.stories(), h.ready(preset).train(), h.pick(LENGTH, 64)
    cast, optimizer = pick_autocast('bfloat16', h.device), make_optimizer(model, TrainConfig(optimizer='adamw'))
    forget()
    if h.cuda: torch.cuda.reset_peak_memory_stats()
    start = h.clock()
    if compile: compiled(h, model, batch(corpus, 0, rows, length, 1)[0].to(h.device), cast)
    compiling, made, took, routed = h.clock() - start, [graphs()], [], []
    for i in range(h.pick(13, 5)):
        x, y = (t.to(h.device) for t in batch(corpus, i, rows, length, model.config.next_tokens))
        start = h.clock()
        out, seconds = train_step(model, optimizer, x, y, 1e-3, cast, h.clock)
        took.append((h.clock() - start, seconds))
        made.append(graphs())
        routed.append(out['routed'])
    step, update = (statistics.median(t) for t in zip(*took[3:], strict=True))
    peak = torch.cuda.max_memory_allocated() / 1e9 if h.cuda else None
    work = flops_per_byte(model.config, statistics.mean(routed)) * rows * length
    first = made[0] if compile else made[1]
    return dict(preset=preset, compiled=compile, parameters=model.num_parameters(), rows=rows, length=length,
                ms=step * 1e3, optimizer_ms=update * 1e3, first_ms=took[0][0] * 1e3, compile_s=compiling,
                bytes_per_second=rows * length / step, share=work / step / h.rate('bfloat16'),
                peak_gb=peak, routed=statistics.mean(routed), bits=out['per_head'][0] / math.log(2),
                graphs=made[-1], graphs_later=made[-1] - first, graphs_after_three=made[-1] - made[3]) | traces()

def training_step(h, preset, compile=False):
    "With as many rows as fit."
    plain = h.results.find(f'step-{preset}') or {}
    rows = h.pick(plain.get('rows', BATCH[preset]), 2)
    while True:
        try: return some_steps(h, preset, compile, rows)
        except torch.cuda.OutOfMemoryError:
            if rows == 1: raise
        forget()                                                  # not while the error holds the tensors
        rows //= 2

def breaks(h, preset):
    "Where the forward pass falls apart into several graphs: the file, its line and why."
    model = h.ready(preset).train()
    x, _ = batch(h.stories(), 0, 2, h.pick(LENGTH, 64), model.config.next_tokens)
    with pick_autocast('bfloat16', h.device): found = torch._dynamo.explain(model.states)(x.to(h.device))
    at = [(r.user_stack[-1], r.reason) for r in found.break_reasons if r.user_stack]
    places = {f"{Path(frame.filename).name}:{frame.lineno}: {' '.join(why.split())[:60]}" for frame, why in at}
    return dict(preset=preset, graphs=found.graph_count, places=sorted(places))

# --- a model, and how it writes

def four_minutes(h):
    "The shape `10m` as the preset trains it, and its score on new stories."
    few = dict(context_len=64, batch_size=2, max_steps=2, validation_bytes=300)
    s = TrainConfig.preset('10m', device=h.device.type, validation_interval=0, **h.pick(dict(max_minutes=4), few))
    model = train(h.runs/'10m', 'stories', h.shape('10m'), s, progress=False, limit=h.pick(None, 20_000))
    score = bits_per_byte(model, new_stories(h.pick(200, 2), 4), max_bytes=h.pick(100_000, 300))
    last = read_metrics(h.runs/'10m')[-1]
    seen = last['step'] * s.batch_size * s.context_len
    return dict(steps=last['step'], bytes=seen, seconds=last['seconds'], bpb=score.bpb, scored=score.bytes,
                routed=score.routed_fraction, data=source('stories', held_out='seed 4'))

def trained(h, name):
    "The model that comes along, or the one of the four minutes."
    if name == 'stories': return Pico.from_pretrained('stories', device=h.device.type)
    if not (h.runs/name/'model.safetensors').exists(): raise NotYet(f'needs the model of train-{name}')
    return Pico.from_pretrained(h.runs/name, device=h.device.type)

PROMPT = b'Once upon a time'

def writing(h, name):
    "Plain, drafting by the clock, always drafting."
    model, (n, turns) = trained(h, name), h.pick((400, 3), (20, 1))
    generate(model, PROMPT, n // 4, speculative=True)             # to warm up
    found = {str(t): compare(model, PROMPT, n, turns, t, h.clock) for t in TEMPERATURES}
    return dict(parameters=model.num_parameters(), length=n, turns=turns, temperatures=found)

def writing_by_graph(h, name):
    "The likeliest bytes from one captured pass a byte, beside the plain loop."
    model, n = trained(h, name), h.pick(400, 20)
    pass_ = Captured(model)
    if h.cuda: pass_.capture()
    bytes(pass_.write(PROMPT, 5))                                 # to warm up
    def timed(bytes_written):
        first = next(bytes_written)                               # the prompt is read before it
        start = h.clock()
        rest = bytes(bytes_written)
        return bytes([first]) + rest, len(rest) / (h.clock() - start)
    written, rate = timed(pass_.write(PROMPT, n))
    steps = stream(model, PROMPT, n, temperature=0, speculative=False)
    plain, plain_rate = timed(s.byte for s in steps)
    written = written.partition(MARKS[model.config.marks][1])[0]  # as the loop, which ends there
    return dict(parameters=model.num_parameters(), captured=h.cuda, bytes_per_second=rate,
                plain_bytes_per_second=plain_rate, same=len(os.path.commonprefix([plain, written])),
                of=max(len(plain), len(written)),
                note='every byte goes through the latent blocks, which counts only for the routed ones')

def passes(h, preset):
    "Milliseconds of a pass over some bytes behind a long text: the package's, and a fixed one, in a graph on a GPU."
    model, prompt = h.ready(preset).eval(), list(new_stories(2, 4).read(0, h.pick(1500, 64))[0].tobytes())
    runs = {}
    for T in PASSES:
        reader, fixed = TorchDecoder(model, 1, max(PASSES), True, 1), Captured(model, T)
        # not so many at once that FlexAttention would be compiled for them
        for i in range(0, len(prompt), 100): reader.read([prompt[i:i+100]])
        if h.cuda: fixed.capture()
        for i in range(0, len(prompt) - T + 1, T):
            fixed.x.copy_(torch.tensor([prompt[i:i+T]]))
            fixed.read()
        def read(reader=reader, T=T):
            reader.read([prompt[:T]])
            reader.forget([T])
        runs |= {('package', T): read, ('fixed', T): fixed.read}
    ms = h.turns(runs, 3)
    return dict(parameters=model.num_parameters(), captured=h.cuda,
                ms={way: {str(T): ms[way, T] for T in PASSES} for way in ('package', 'fixed')})

def optimizer_steps(h, preset):
    "SOAP beside AdamW on random gradients."
    with torch.device('meta'): model = Pico(h.shape(preset))
    makers = competitors(model.config.dim, None, False)
    makers = {n: makers[n] for n in ('AdamW, fused', 'SOAP', 'SOAP, refreshes together')}
    shapes = [p.shape for p in model.parameters()]
    took = step_times(makers, shapes, *h.pick((3, 20), (1, 2)), h.device, h.clock)
    return dict(parameters=model.num_parameters(), seconds=took)

if __name__ == '__main__': print(__doc__)                         # gpu.py runs it
