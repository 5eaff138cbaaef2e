"""Everything that waits for a GPU, in one call, in order of worth.

    python nbs/experiments/gpu.py --minutes 8        # needs CUDA; start it again to go on with what did not fit
    python nbs/experiments/gpu.py --dry              # tiny sizes, on a CPU too, about a minute: does it run?

The tests that a CPU skips; FlexAttention against the plain path; a training step of three sizes in bfloat16, plain and
compiled; a model trained for four minutes; how it writes, with drafts and with CUDA graphs; a step of SOAP. The design
is that of the package's presets. Times are between synchronisations, memory is the allocator's peak. Each result is a
line of results/gpu.jsonl, and the table at the end is there to be pasted. What fails is a line that says why; `--again`
measures it once more.
"""
import contextlib
import json
import signal
import subprocess
import sys
import time
from functools import partial
from typing import Callable, NamedTuple

import gpu_steps
import torch
from common import parse, parser, stamp
from gpu_steps import BATCH, ROOT, Here, NotYet, forget

FLEX = [ # (query heads, key/value heads, head width), bytes, window, type of numbers
    ((9, 3, 14), 6144, 16, 'bfloat16'), ((9, 3, 14), 1152, 512, 'bfloat16'), ((16, 4, 64), 6144, 32, 'bfloat16'),
    ((16, 4, 64), 1152, 512, 'bfloat16'), ((9, 3, 14), 6144, 16, 'float32'), ((9, 3, 14), 1152, 512, 'float32'),
]

# --- what the table says

def told_matrix(r): return ', '.join(f'{t:.1f} TFLOP/s in {d}' for d, t in r['teraflops'].items())

def told_tests(r): return '; '.join([', '.join(f'{n} {k}' for k, n in r['counts'].items()), *r['failures']])

def told_flex(r):
    memory = {n: f' and {mb:.0f} MB' for n, mb in (r['mb'] or {}).items()}
    times = ', '.join(f'{n} {ms:.2f} ms{memory.get(n, "")}' for n, ms in r['ms'].items())
    return f"off by {r['forward']:.1e} forward, {r['gradient']:.1e} gradient; {times}"

def told_step(r):
    memory = f", {r['peak_gb']:.1f} GB" if r['peak_gb'] else ''
    return (f"{r['ms']:.1f} ms for {r['rows']} × {r['length']} bytes (optimizer {r['optimizer_ms']:.1f}), "
            f"{r['share']:.1%} of the matrix rate{memory}; {sum(r['breaks'].values())} graph breaks, "
            f"{r['graphs']} graphs, {r['graphs_later']} of them made later, {r['graphs_after_three']} after step 3; "
            f"{r['gave_up']} functions given up")

def told_breaks(r): return '; '.join([f"{r['graphs']} graphs", *r['places']])

def told_training(r):
    return f"{r['bpb']:.4f} bits per byte after {r['steps']:,} steps, {r['bytes'] / r['seconds']:,.0f} bytes/s"

def told_writing(r):
    def speeds(ways):
        return ', '.join(f"{way} {v['bytes_per_second']:,.0f} bytes/s ({v['ratio']:.2f})" for way, v in ways.items())
    return '; '.join(f"temperature {t}: {speeds(found['ways'])}" for t, found in r['temperatures'].items())

def told_graph(r):
    way = 'a CUDA graph' if r['captured'] else 'the same pass without a graph'
    return (f"{r['bytes_per_second']:,.0f} bytes/s by {way}, plain {r['plain_bytes_per_second']:,.0f}; "
            f"the first {r['same']} of {r['of']} bytes are the same")

def told_passes(r):
    times = {way: ', '.join(f'{T} bytes {v:.2f} ms' for T, v in ms.items()) for way, ms in r['ms'].items()}
    return '; '.join(f'{way}: {t}' for way, t in times.items())

def told_soap(r): return ', '.join(f"{n} {v['mean'] * 1e3:.2f} ms" for n, v in r['seconds'].items())

# --- the steps

class Step(NamedTuple):
    "Something to measure. It is left out where fewer minutes than it probably needs are left."
    name:str
    minutes:float
    run:Callable        # of a `Here`; returns what is found
    told:Callable       # of a line; returns what the table says

def flex_step(heads, T, W, dtype):
    run = partial(gpu_steps.flex, heads=heads, T=T, W=W, dtype=dtype)
    return Step(f'flex-{heads[-1]}-{T}-{W}-{dtype}', .3, run, told_flex)

def of(what, minutes, run, told, cases):
    "One step for each case."
    return [Step(f'{what}-{name}', minutes, partial(run, **case), told) for name, case in cases]

SIZES = [(p, dict(preset=p)) for p in BATCH]
COMPILED = [(f'{p}-compiled', dict(preset=p, compile=True)) for p in BATCH]
MODELS = [(m, dict(name=m)) for m in ('10m', 'stories')]
STEPS = [
    Step('matrix', .1, gpu_steps.matrix, told_matrix),
    Step('tests', 1.5, gpu_steps.skipped_tests, told_tests),
    *[flex_step(*case) for case in FLEX],
    *of('step', .4, gpu_steps.training_step, told_step, SIZES),
    *of('step', 1.5, gpu_steps.training_step, told_step, COMPILED),
    *of('breaks', .3, gpu_steps.breaks, told_breaks, SIZES[:1]),
    Step('train-10m', 5, gpu_steps.four_minutes, told_training),
    *of('write', .5, gpu_steps.writing, told_writing, MODELS),
    *of('graph', .3, gpu_steps.writing_by_graph, told_graph, MODELS),
    *of('pass', .4, gpu_steps.passes, told_passes, SIZES),
    *of('soap', .5, gpu_steps.optimizer_steps, told_soap, SIZES),
]

# --- the minutes

class TimeIsUp(BaseException):
    "Ends a step from inside; no `except Exception` on its way holds it up."

@contextlib.contextmanager
def limit(minutes):
    "Raise `TimeIsUp` in here after so many minutes, where the system has an alarm."
    if not hasattr(signal, 'setitimer'): return (yield)
    def ring(*_): raise TimeIsUp
    old = signal.signal(signal.SIGALRM, ring)
    # it rings again in case that it was not heard, as in the end of an object
    signal.setitimer(signal.ITIMER_REAL, max(60 * minutes, .001), 5)
    try: yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)

def measure(h, step):
    "What a step found or why it failed; None and a reason if it is left for another call."
    left = h.left()
    if left < h.pick(step.minutes, 0): return None, f'{max(left, 0):.1f} minutes are left, it needs {step.minutes:g}'
    most = h.pick(min(left, 3 * step.minutes), left)
    try:
        with limit(most): return step.run(h), ''
    except TimeIsUp:
        if most == left: return None, 'the time was up'
        return dict(error=f'not done after {most:.1f} minutes'), ''
    except NotYet as e: return None, str(e)
    except Exception as e: return dict(error=' '.join(f'{type(e).__name__}: {e}'.split())[:200]), ''

def alive(h):
    "Does the GPU still answer? After some errors it never does in the same process."
    try:
        forget()
        h.clock()
    except RuntimeError: return False
    return True

def work(h, steps, a):
    "All steps that have no line. Returns why the others have none, and whether the GPU still answers."
    left_out = {}
    for step in steps:
        line = h.results.find(step.name)
        if line and not (a.again and 'error' in line): continue
        start = time.perf_counter()
        found, left_out[step.name] = measure(h, step)
        if found is not None:
            how = stamp(a.command, found.pop('data', None))
            if h.cuda: how['device'] = torch.cuda.get_device_name()
            row = dict(name=step.name) | found | how | dict(took_s=round(time.perf_counter() - start, 1))
            h.results.add(row)
            print(json.dumps(row), flush=True)
        if not alive(h): return left_out, False
    return left_out, True

# --- the command

def table(h, steps, left_out):
    "All lines in Markdown."
    rows = [f"| what | on {torch.cuda.get_device_name() if h.cuda else 'a CPU'} |", '|---|---|']
    for step in steps:
        r = h.results.find(step.name)
        if r is None: says = f"left out: {left_out[step.name]}"
        else: says = f"failed: {r['error']}" if 'error' in r else step.told(r)
        rows.append(f"| {step.name} | {says.replace('|', '/')} |")
    return '\n'.join(rows)

def options(args):
    p = parser(__doc__)
    p.add_argument('--minutes', type=float, default=8, help='how long it may take (default: 8)')
    p.add_argument('--dry', dest='smoke', action='store_true', help='tiny sizes, to see that it runs, on a CPU too')
    p.add_argument('--again', action='store_true', help='measure again what failed before')
    p.add_argument('--only', nargs='+', metavar='NAME', help='only the steps whose names begin so, such as flex')
    return parse(p, __file__, args)

def main(args=None):
    a = options(args)
    if not a.smoke and not torch.cuda.is_available():
        sys.exit('gpu: PyTorch finds no GPU here: start it on a machine with CUDA, or give --dry')
    runs = a.results.file.parent/'runs' if a.smoke else ROOT/'runs'/'gpu'
    h = Here(a.smoke, a.results, runs, time.perf_counter() + 60 * a.minutes)
    steps = [s for s in STEPS if not a.only or s.name.startswith(tuple(a.only))]
    left_out, answers = work(h, steps, a)
    if answers: return print(table(h, steps, left_out))
    given = [w for w in (sys.argv[1:] if args is None else args) if w != '--again']
    print('the GPU does not answer any more: the rest is measured by another process', flush=True)
    given += ['--out', str(a.results.file), '--minutes', f'{max(h.left(), 0):.2f}']
    subprocess.run([sys.executable, __file__, *given])

if __name__ == '__main__': main()
