"""What attention and a block cost: time and peak memory of every rung of chapter 03, forward + backward.

    OMP_NUM_THREADS=1 python nbs/experiments/attention_costs.py      # one thread of a CPU, a few minutes
    python nbs/experiments/attention_costs.py --device cuda          # a GPU; FlexAttention is compared first

Chapters 03 and 04 draw it. Times: the rungs take turns in one process, median of the turns, processor time of one
thread (on a GPU: wall time between synchronisations). Memory: each rung in a process of its own, the highest resident
memory during forward + backward minus what was resident just before (on a GPU: the allocator's peak, likewise). Every
rung gets the same inputs: heads 9/3, head width 16, float32, batch 1.
"""
import argparse
import os
import resource
import statistics
import subprocess
import sys
import time

import torch
import torch.nn.functional as F
from common import parse, parser, stamp

from pico.alibi import alibi_bias, alibi_slopes
from pico.attention import attention, attention_banded, attention_dense, attention_flex, attention_fused
from pico.block import Block

H, G, K, D = 9, 3, 16, 144
CASES = [(T, 16) for T in (256, 512, 1024, 2048, 4096, 6144)] + [(1536, 512)]
RATES = [(6144, 16), (1536, 512)]                # where a block and a matrix product are timed, too

# --- the rungs

def sdpa(q, k, v, W, s, p):
    "What one would write without this chapter: all scores, the bias as a mask."
    k, v = (t.repeat_interleave(H//G, 1) for t in (k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=alibi_bias(s, p, p, W)[None])

RUNGS = {
    'dense': lambda q, k, v, W, s, p: attention_dense(q, k, v, W, s, p, p),
    'dense, PyTorch': sdpa,
    'band':  lambda q, k, v, W, s, p: attention_banded(q, k, v, W, s),
    'band, fused': lambda q, k, v, W, s, p: attention_fused(q, k, v, W, s),
    'FlexAttention': lambda q, k, v, W, s, p: attention_flex(q, k, v, W, s),
}

def inputs(T, device, heads=(H, G, K), rows=1, dtype=torch.float32):
    "Queries, keys and values, slopes, positions."
    (H, G, K), g = heads, torch.Generator().manual_seed(0)
    qkv = [torch.randn(rows, h, T, K, generator=g).to(device, dtype).requires_grad_() for h in (H, G, G)]
    return qkv, alibi_slopes(H).to(device), torch.arange(T, device=device)

def step(name, T, W, device, **shape):
    "A function that runs a rung forward and backward once."
    qkv, s, p = inputs(T, device, **shape)
    def run():
        for x in qkv: x.grad = None
        RUNGS[name](*qkv, W, s, p).sum().backward()
    return run

def whole_step(T, W, device):
    "The same of the attention that the model calls."
    qkv, s, _ = inputs(T, device)
    def run():
        for x in qkv: x.grad = None
        attention(*qkv, W, s).sum().backward()
    return run

def block_step(T, W, device):
    "The same of a whole block."
    torch.manual_seed(0)
    block, x = Block(D, H, G, W).to(device), torch.randn(1, T, D, device=device, requires_grad=True)
    def run():
        for t in (x, *block.parameters()): t.grad = None
        block(x).sum().backward()
    return run

# --- time

def clock(device):
    if device == 'cpu': return time.thread_time()
    torch.cuda.synchronize()
    return time.perf_counter()

def in_turn(runs, device, seconds):
    "Median milliseconds of each, taking turns for about so many seconds, at least three turns."
    for f in runs.values(): f()
    took, start = {k: [] for k in runs}, time.perf_counter()
    while len(took[next(iter(runs))]) < 3 or time.perf_counter() - start < seconds:
        for k, f in runs.items():
            t = clock(device)
            f()
            took[k].append((clock(device) - t) * 1e3)
    return {k: statistics.median(v) for k, v in took.items()}

# --- memory

def peak(name, T, W, device):
    "Bytes needed beyond inputs and outputs, by one forward + backward; run in a fresh process."
    step(name, 64, min(W, 8), device)()          # libraries loaded and threads started before we look
    run = step(name, T, W, device)
    if device == 'cuda': return cuda_peak(run)
    if os.path.exists('/proc/self/clear_refs'): return linux_peak(run)
    scale = 1 if sys.platform == 'darwin' else 1024
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    run()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * scale

def cuda_peak(run):
    run()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before

def linux_peak(run):
    with open('/proc/self/clear_refs', 'w') as f: f.write('5')       # the high-water mark begins anew here
    before = status('VmRSS')
    run()
    return status('VmHWM') - before

def status(field):
    "Bytes of a line of /proc/self/status."
    with open('/proc/self/status') as f:
        return next(int(line.split()[1]) * 1024 for line in f if line.startswith(field))

# --- operations

def flops(T, W):
    "Useful multiplications and additions of attention: two matrix products forward, four backward, over what counts."
    seen = sum(min(i, W) + 1 for i in range(T))
    return 3 * 2 * 2 * seen * H * K

def block_flops(T, W): return flops(T, W) + 3 * 2 * T * (D * (H + 2*G) * K + H * K * D + 2 * D * D + D * D)

# --- is FlexAttention right?

def compare(device):
    "Largest differences of FlexAttention from the plain path, outputs and gradients; stops where one is too large."
    # float32 products may be TF32
    allowed = {torch.float32: 5e-3, torch.bfloat16: 5e-2, torch.float16: 2e-2}
    out = {}
    for T, W in ((6144, 16), (1536, 512), (1000, 100), (300, None), (129, 0)):
        for dtype, most in allowed.items():
            err = out[f'T={T} W={W} {str(dtype)[6:]}'] = max(differences(T, W, dtype, device))
            if not err < most:
                sys.exit(f'FlexAttention differs from the plain path by {err} at T={T}, W={W}, {dtype}')
    torch.manual_seed(0)
    block, x = Block(D, H, G, 16).to(device), torch.randn(2, 500, D, device=device)
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast(device, dtype): low = block(x)
        if not low.isfinite().all(): sys.exit(f'a block with {dtype} autocast is not finite')
        out[f'block, autocast {str(dtype)[6:]}'] = ((low - block(x)).abs().max() / block(x).abs().max()).item()
    return out

def differences(T, W, dtype, device, way=attention_flex, **shape):
    "Of outputs and of the gradients of queries, keys and values, each as a fraction of the largest."
    x, s, _ = inputs(T, device, dtype=dtype, **shape)
    exact = [t.detach().double().requires_grad_() for t in x]
    weight = torch.randn(x[0].shape, generator=torch.Generator().manual_seed(1)).to(device)
    a, b = way(*x, W, s), attention_fused(*exact, W, s.double())
    ga = torch.autograd.grad((a.float() * weight).sum(), x)
    gb = torch.autograd.grad((b * weight).sum(), exact)
    return [((m.double() - n).abs().max() / n.abs().max()).item() for m, n in zip((a, *ga), (b, *gb), strict=True)]

# --- the experiment

def costs(rungs, cases, device, seconds):
    "Milliseconds and megabytes of every rung at every length."
    for T, W in cases:
        ms = in_turn({n: step(n, T, W, device) for n in rungs}, device, seconds)
        for n in rungs:
            r = subprocess.run([sys.executable, __file__, '--device', device, '--peak', n, str(T), str(W)],
                               capture_output=True, text=True)
            if r.returncode: sys.exit(r.stderr)
            found = dict(rung=n, T=T, W=W, ms=round(ms[n], 3), mb=round(int(r.stdout) / 1e6, 2))
            print(found, flush=True)
            yield found

def rates(cases, device, seconds, side=1024):
    "Useful operations a second of attention and a block, beside a product of large matrices."
    m = torch.randn(side, side, device=device)
    for T, W in cases:
        runs = {'matmul': lambda: m @ m, 'attention': whole_step(T, W, device), 'block': block_step(T, W, device)}
        work = {'matmul': 2 * side**3, 'attention': flops(T, W), 'block': block_flops(T, W)}
        ms = in_turn(runs, device, seconds)
        found = dict(T=T, W=W, ms={k: round(v, 2) for k, v in ms.items()},
                     gflops={k: round(f / ms[k] / 1e6, 2) for k, f in work.items()})
        print(found, flush=True)
        yield found

def main(args=None):
    p = parser(__doc__)
    p.add_argument('--device', default='cpu', choices=['cpu', 'cuda'])
    p.add_argument('--peak', nargs=3, help=argparse.SUPPRESS)
    a = parse(p, __file__, args)
    if a.device == 'cuda' and not torch.cuda.is_available(): sys.exit('--device cuda: PyTorch finds no GPU here')
    if a.peak: return print(peak(a.peak[0], int(a.peak[1]), int(a.peak[2]), a.device))
    if a.results.find(a.device): return
    rungs = [n for n in RUNGS if n != 'FlexAttention' or a.device == 'cuda']
    result = dict(name=a.device) | stamp(a.command) | dict(shapes=dict(H=H, G=G, K=K, D=D))
    if a.device == 'cuda': result |= dict(device=torch.cuda.get_device_name(), compared=compare(a.device))
    if a.smoke:
        result |= dict(costs=[*costs(['band'], [(64, 8)], a.device, 0)], rates=[*rates([(64, 8)], a.device, 0, 64)])
    else: result |= dict(costs=[*costs(rungs, CASES, a.device, 4)], rates=[*rates(RATES, a.device, 8)])
    a.results.add(result)

if __name__ == '__main__': main()
