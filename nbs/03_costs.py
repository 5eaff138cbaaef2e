"""What attention and a block cost: time and peak memory of every rung of chapter 03, forward + backward.

    OMP_NUM_THREADS=1 python nbs/03_costs.py                    # one thread of a CPU, a few minutes
    python nbs/03_costs.py --device cuda                        # the same on a GPU, FlexAttention compared with the plain path first

Writes nbs/results/attention/DEVICE.json, which chapters 03 and 04 draw. Times: the rungs take turns in one process, median of the turns, processor time of one
thread (on a GPU: wall time between synchronisations). Memory: each rung in a process of its own, the highest resident memory during forward + backward minus what was
resident just before (on a GPU: the allocator's peak, likewise). Every rung gets the same inputs: heads 9/3, head width 16, float32, batch 1.
"""
import argparse, json, math, os, platform, resource, statistics, subprocess, sys, time
from pathlib import Path
import torch
import torch.nn.functional as F
from pico.alibi import alibi_bias, alibi_slopes
from pico.attention import attention, attention_dense, attention_flex, attention_fused
from pico.block import Block

H, G, K, D = 9, 3, 16, 144
CASES = [(T, 16) for T in (256, 512, 1024, 2048, 4096, 6144)] + [(1536, 512)]

def attention_banded(q, k, v, window, slopes, block=None):
    "Rung 3 of chapter 03, which only explains and is not in the package."
    (B, H, T, K), (G, S) = q.shape, k.shape[1:3]
    R, W = H // G, S-1 if window is None else min(window, S-1)
    block = min(T, block or max(64, W//2))
    n = -(-T // block)                                            # blocks
    before = W - (S - T)    # keys that the first block would like to see and that are not there
    def cut(x):                                                   # (B, G, S, K) -> (B, G, n, W + block, K)
        x = F.pad(x, (0, 0, max(before, 0), n*block - T))[:, :, max(-before, 0):]
        return x.unfold(2, W + block, block).transpose(-1, -2)
    q = F.pad(q, (0, 0, 0, n*block - T)).view(B, G, R, n, block, K).transpose(2, 3).reshape(B, G, n, R*block, K)
    scores = (q / math.sqrt(K)) @ cut(k).transpose(-1, -2)        # (B, G, n, R·block, W + block)
    low = torch.finfo(scores.dtype).min / 2                       # hides, and leaves a softmax over nothing finite
    j = torch.arange(W + block, device=q.device)
    tile = alibi_bias(slopes, j[W:], j, W, scores.dtype).clamp(min=low)
    scores = scores + tile.view(G, 1, R*block, W + block)
    m = min(n, -(-max(before, 0) // block))                       # blocks that reach before the first key
    index = j - before + block*torch.arange(m, device=q.device)[:,None]     # (m, W + block) of each key
    scores[:, :, :m].masked_fill_((index < 0)[:,None], low)
    out = scores.softmax(-1).to(v.dtype) @ cut(v)                 # (B, G, n, R·block, K)
    return out.view(B, G, n, R, block, K).transpose(2, 3).reshape(B, H, n*block, K)[:, :, :T]

def sdpa(q, k, v, W, s, p): # what one would write without this chapter: all scores, the bias as a mask
    return F.scaled_dot_product_attention(q, k.repeat_interleave(H//G, 1), v.repeat_interleave(H//G, 1),
                                          attn_mask=alibi_bias(s, p, p, W)[None])
RUNGS = {
    'dense': lambda q, k, v, W, s, p: attention_dense(q, k, v, W, s, p, p),
    'dense, PyTorch': sdpa,
    'band':  lambda q, k, v, W, s, p: attention_banded(q, k, v, W, s),
    'band, fused': lambda q, k, v, W, s, p: attention_fused(q, k, v, W, s),
    'FlexAttention': lambda q, k, v, W, s, p: attention_flex(q, k, v, W, s),
}

def inputs(T, device):
    g = torch.Generator().manual_seed(0)
    return [torch.randn(1, h, T, K, generator=g).to(device).requires_grad_()
            for h in (H, G, G)], alibi_slopes(H).to(device), torch.arange(T, device=device)

def step(name, T, W, device):
    "A function that runs forward and backward once."
    qkv, s, p = inputs(T, device)
    def run():
        for x in qkv: x.grad = None
        RUNGS[name](*qkv, W, s, p).sum().backward()
    return run

def block_step(T, W, device):
    torch.manual_seed(0)
    block, x = Block(D, H, G, W).to(device), torch.randn(1, T, D, device=device, requires_grad=True)
    def run():
        for t in (x, *block.parameters()): t.grad = None
        block(x).sum().backward()
    return run

def clock(device):
    if device == 'cuda':
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.thread_time()

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

def status(field):
    return next(int(l.split()[1]) * 1024 for l in open('/proc/self/status') if l.startswith(field))

def peak(name, T, W, device):
    "Bytes needed beyond inputs and outputs, by one forward + backward; run in a fresh process."
    step(name, 64, min(W, 8), device)()                            # libraries loaded and threads started before we look
    run = step(name, T, W, device)
    if device == 'cuda':
        run()
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    if os.path.exists('/proc/self/clear_refs'):
        with open('/proc/self/clear_refs', 'w') as f: f.write('5')  # Linux: the high-water mark begins anew here
        before = status('VmRSS')
        run()
        return status('VmHWM') - before
    scale = 1 if sys.platform == 'darwin' else 1024
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    run()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * scale

def flops(T, W):
    "Useful multiplications and additions of attention, forward + backward: two matrix products forward, four backward, over the scores that count."
    seen = sum(min(i, W) + 1 for i in range(T))
    return 3 * 2 * 2 * seen * H * K

def block_flops(T, W): return flops(T, W) + 3 * 2 * T * (D * (H + 2*G) * K + H * K * D + 2 * D * D + D * D)

def compare(device):
    "Largest difference of FlexAttention from the plain path: outputs and gradients, also with 16-bit autocast; stops where one is too large."
    out = {}
    for T, W in ((6144, 16), (1536, 512), (1000, 100), (300, None), (129, 0)):
        qkv, s, p = inputs(T, device)
        # float32 products may be TF32
        for dtype, allowed in ((torch.float32, 5e-3), (torch.bfloat16, 5e-2), (torch.float16, 2e-2)):
            x = [t.detach().to(dtype).requires_grad_() for t in qkv]
            exact = [t.detach().double().requires_grad_() for t in x]
            weight = torch.randn(1, H, T, K, generator=torch.Generator().manual_seed(1)).to(device)
            a, b = attention_flex(*x, W, s), attention_fused(*exact, W, s.double())
            ga, gb = torch.autograd.grad((a.float() * weight).sum(), x), torch.autograd.grad((b * weight).sum(), exact)
            err = max(((m.double() - n).abs().max() / n.abs().max()).item() for m, n in zip((a, *ga), (b, *gb)))
            out[f'T={T} W={W} {str(dtype)[6:]}'] = err
            if not err < allowed:
                sys.exit(f'FlexAttention differs from the plain path by {err} at T={T}, W={W}, {dtype}')
    torch.manual_seed(0)
    block, x = Block(D, H, G, 16).to(device), torch.randn(2, 500, D, device=device)
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast(device, dtype): low = block(x)
        if not low.isfinite().all(): sys.exit(f'a block with {dtype} autocast is not finite')
        out[f'block, autocast {str(dtype)[6:]}'] = ((low - block(x)).abs().max() / block(x).abs().max()).item()
    return out

if __name__ == '__main__':
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument('--device', default='cpu', choices=['cpu', 'cuda'])
    a.add_argument('--peak', nargs=3, help=argparse.SUPPRESS)
    o = a.parse_args()
    if o.device == 'cpu': torch.set_num_threads(1)
    elif not torch.cuda.is_available(): sys.exit('--device cuda: PyTorch finds no GPU here')
    if o.peak:
        print(peak(o.peak[0], int(o.peak[1]), int(o.peak[2]), o.device))
        sys.exit()
    result = dict(command=f"python nbs/03_costs.py --device {o.device}", device=torch.cuda.get_device_name()
                  if o.device == 'cuda' else f'one thread of an {platform.machine()} CPU',
                  torch=torch.__version__, date=time.strftime('%Y-%m-%d'), shapes=dict(H=H, G=G, K=K, D=D), costs=[],
                  rates=[])
    if o.device == 'cuda': result['compared'] = compare(o.device)
    rungs = [n for n in RUNGS if n != 'FlexAttention' or o.device == 'cuda']
    for T, W in CASES:
        ms = in_turn({n: step(n, T, W, o.device) for n in rungs}, o.device, 4)
        for n in rungs:
            r = subprocess.run([sys.executable, __file__, '--device', o.device, '--peak', n, str(T), str(W)],
                               capture_output=True, text=True)
            if r.returncode: sys.exit(r.stderr)
            result['costs'].append(dict(rung=n, T=T, W=W, ms=round(ms[n], 3), mb=round(int(r.stdout) / 1e6, 2)))
            print(result['costs'][-1], flush=True)
    m = torch.randn(1024, 1024, device=o.device)
    for T, W in ((6144, 16), (1536, 512)):
        q, s, p = inputs(T, o.device)
        def whole():
            for x in q: x.grad = None
            attention(*q, W, s).sum().backward()
        ms = in_turn({'matmul': lambda: m @ m, 'attention': whole, 'block': block_step(T, W, o.device)}, o.device, 8)
        gflops = {k: f / ms[k] / 1e6 for k,
                  f in (('matmul', 2 * 1024**3), ('attention', flops(T, W)), ('block', block_flops(T, W)))}
        result['rates'].append(dict(T=T, W=W, ms={k: round(v, 2) for k, v in ms.items()},
                                    gflops={k: round(v, 2) for k, v in gflops.items()}))
        print(result['rates'][-1], flush=True)
    out = Path(__file__).parent / 'results' / 'attention' / f'{o.device}.json'
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + '\n')
    print('wrote', out.name)
