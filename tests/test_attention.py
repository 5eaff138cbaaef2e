"Attention: random shapes against a dense computation written here, caches cut and rolled back at random, cost."
import math
import os
import time
from types import SimpleNamespace
import pytest
import torch
from hypothesis import given, settings, strategies as st
from pico import attention as module
from pico.alibi import alibi_slopes
from pico.attention import attention, attention_flex, attention_fused, flex_blocks, flex_mask, flex_score, use_flex
from pico.block import Attention
from pico.cache import KVCache

many = settings(deadline=None, derandomize=True, max_examples=120)

def exact(a, b): # the claim in float64 is: equal up to rounding. A bias rounded in float32 would be off by 1e-7
    torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)

def dense(q, k, v, window, slopes):
    "Repeated keys, a full matrix, one softmax: independent of the chapter's code."
    R, T, S = q.shape[1] // k.shape[1], q.shape[2], k.shape[2]
    k, v = k.repeat_interleave(R, 1), v.repeat_interleave(R, 1)
    back = (torch.arange(T) + S - T)[:,None] - torch.arange(S)
    linear = slopes.dim() == 1
    bias = -slopes[:,None,None].to(q.dtype) * back if linear else slopes[:, back.clamp(0, slopes.shape[1] - 1)]
    s = q @ k.mT / math.sqrt(q.shape[-1]) + bias
    return s.masked_fill((back < 0) | (back > (S if window is None else window)), -math.inf).softmax(-1) @ v

@st.composite
def shapes(draw):
    G = draw(st.integers(1, 3))
    H = G * draw(st.integers(1, 4))
    return draw(st.integers(1, 3)), H, G, draw(st.integers(1, 9))

def qkv(seed, B, H, G, K, T, S=None):
    g = torch.Generator().manual_seed(seed)
    shapes = (H, T), (G, S or T), (G, S or T)
    return [torch.randn(B, n, t, K, generator=g, dtype=torch.double) for n, t in shapes]

def joined(*a):
    q, k, v = qkv(*a)
    return q, torch.cat([k, v], 1)

@many
@given(shapes(), st.integers(1, 200), st.integers(0, 40), st.sampled_from([None, 0, 1, 2, 7, 16, 63, 64, 65, 150, 500]),
       st.integers(0, 99))
def test_banded_equals_dense(shape, T, extra, window, seed):
    B, H, G, K = shape
    slopes = alibi_slopes(H)
    q, k, v = qkv(seed, B, H, G, K, T, T + extra)
    exact(attention(q, k, v, window, slopes), dense(q, k, v, window, slopes))

@settings(deadline=None, derandomize=True, max_examples=40)
@given(shapes(), st.integers(1, 200), st.sampled_from([0, 16]), st.sampled_from([0, 3, 16, 40]), st.integers(0, 99))
def test_a_table_of_distances_equals_dense_and_learns(shape, T, extra, window, seed):
    B, H, G, K = shape
    table = torch.randn(H, window + 1, generator=torch.Generator().manual_seed(seed), dtype=torch.double)
    x = [t.requires_grad_() for t in (*qkv(seed, B, H, G, K, T, T + extra), table)]
    a, b = (f(*x[:3], window, table) for f in (attention, dense))
    exact(a, b)
    w = torch.randn(a.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)
    for one, other in zip(*(torch.autograd.grad((out * w).sum(), x) for out in (a, b)), strict=True): exact(one, other)

@settings(deadline=None, derandomize=True, max_examples=25)
@given(shapes(), st.integers(1, 90), st.sampled_from([None, 0, 3, 16, 64]), st.integers(0, 99))
def test_gradients_equal_dense(shape, T, window, seed):
    B, H, G, K = shape
    slopes = alibi_slopes(H)
    x = [t.requires_grad_() for t in qkv(seed, B, H, G, K, T)]
    w = qkv(seed+1, B, H, G, K, T)[0]
    both = (torch.autograd.grad((f(*x, window, slopes) * w).sum(), x) for f in (attention, dense))
    for a, b in zip(*both, strict=True): exact(a, b)

@many
@given(shapes(), st.sampled_from([0, 1, 3, 8, 20]), st.integers(0, 6), st.integers(0, 99), st.data())
def test_cache_cut_and_rolled_back_anywhere(shape, window, rollback, seed, data):
    B, H, G, K = shape
    slopes, T = alibi_slopes(H), data.draw(st.integers(1, 60))
    q, k, v = qkv(seed, B, H, G, K, T)
    kv, c = torch.cat([k, v], 1), KVCache(B, G, K, window, rollback, dtype=torch.double)
    t, parts = 0, []
    while t < T:
        n = data.draw(st.integers(1, T - t))
        parts.append(c.attend(q[:,:,t:t+n], kv[:,:,t:t+n], slopes))
        t += n
        if rollback and data.draw(st.booleans()):
            n = data.draw(st.integers(1, rollback))
            c.attend(*joined(seed+1, B, H, G, K, n), slopes)
            c.rollback(n)
    exact(torch.cat(parts, 2), dense(q, k, v, window, slopes))

@many
@given(shapes(), st.sampled_from([0, 2, 5, 16]), st.integers(0, 99), st.data())
def test_ragged_rows_equal_rows_alone(shape, window, seed, data):
    B, H, G, K = shape
    slopes, R = alibi_slopes(H), 4
    def draw(hi): return torch.tensor([data.draw(st.integers(0, hi)) for _ in range(B)])
    a, b, n = draw(20), draw(9), 6
    back = torch.tensor([data.draw(st.integers(0, min(R, int(m)))) for m in b])
    A, Bb, C = joined(seed, B, H, G, K, 20), joined(seed+1, B, H, G, K, 9), joined(seed+2, B, H, G, K, n)
    c = KVCache(B, G, K, window, R, dtype=torch.double)
    c.attend(*A, slopes, lengths=a)
    c.attend(*Bb, slopes, lengths=b)
    c.rollback(back)
    out = c.attend(*C, slopes)
    for i in range(B):
        whole = [torch.cat([x[i:i+1,:,:a[i]], y[i:i+1,:,:b[i]-back[i]], z[i:i+1]], 2)
                 for x, y, z in zip(A, Bb, C, strict=True)]
        exact(out[i:i+1], dense(whole[0], *whole[1].split(G, 1), window, slopes)[:,:,-n:])

@many
@given(shapes(), st.sampled_from([0, 1, 4, 9, 30]), st.integers(0, 6), st.integers(0, 99), st.data())
def test_any_sequence_of_steps_equals_one_pass_of_what_stayed(shape, window, rollback, seed, data):
    """Steps of few and many bytes, ragged or not, and rollbacks by a number or per row, in any order: each row against
    its own history."""
    B, H, G, K = shape
    slopes, c = alibi_slopes(H), KVCache(B, G, K, window, rollback, dtype=torch.double)
    held, spare = [[] for _ in range(B)], [0]*B                   # what each row has seen, byte by byte
    for step in range(data.draw(st.integers(1, 6))):
        T = data.draw(st.integers(1, 9))
        n = [data.draw(st.integers(0, T)) for _ in range(B)] if data.draw(st.booleans()) else None
        q, kv = joined(seed + step, B, H, G, K, T)
        out = c.attend(q, kv, slopes, n and torch.tensor(n))
        assert out.isfinite().all()
        for b in range(B):
            m = n[b] if n else T
            held[b] += [(q[b,:,t], kv[b,:,t]) for t in range(m)]
            spare[b] = min(rollback, spare[b] + m)
            if not m: continue
            qs, kvs = (torch.stack([x[i] for x in held[b]], 1)[None] for i in (0, 1))
            exact(out[b:b+1,:,:m], dense(qs, *kvs.split(G, 1), window, slopes)[:,:,-m:])
        if data.draw(st.booleans()):
            back = [data.draw(st.integers(0, s)) for s in spare]
            if data.draw(st.booleans()):
                back = [min(back)]*B
                c.rollback(back[0])
            else: c.rollback(torch.tensor(back))
            for b in range(B):
                del held[b][len(held[b])-back[b]:]
                spare[b] -= back[b]
        assert c.length.tolist() == [len(h) for h in held]

def test_cost_grows_with_the_window_not_with_the_square():
    att = Attention(48, 3, 1, 16)
    def ms(T):
        x, ts = torch.randn(1, T, 48), []
        for _ in range(5):
            t = time.perf_counter()
            att(x).sum().backward()
            ts.append(time.perf_counter() - t)
        return sorted(ts)[1]
    assert ms(16384) < 12 * ms(4096)                              # four times as long; quadratic would be sixteen times

def test_ring_does_not_grow():
    c = KVCache(1, 1, 4, window=8, max_rollback=2)
    x = torch.randn(1, 1, 1, 4)
    s = alibi_slopes(1)
    size, place = c.kv.numel(), c.kv.data_ptr()
    for _ in range(100): c.attend(x, torch.cat([x, x], 1), s)
    assert c.kv.numel() == size == 2 * 4 * 12
    assert c.kv.data_ptr() == place and c.length.item() == 100

@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_low_precision_is_finite_and_close(dtype):
    att, x = Attention(64, 4, 2, 16), torch.randn(2, 100, 64)
    with torch.autocast('cpu', dtype): low = att(x)
    assert low.isfinite().all()
    torch.testing.assert_close(low.float(), att(x), atol=.03, rtol=.1)

@many
@given(st.integers(1, 700), st.integers(0, 300), st.sampled_from([None, 0, 1, 16, 127, 128, 129, 500, 5000]),
       st.sampled_from([32, 128]))
def test_block_mask_lists_exactly_the_blocks_with_something_to_see(T, extra, window, block):
    "Against all pairs: every block listed once, both ways round, for any lengths and windows."
    S = T + extra
    W = S-1 if window is None else min(window, S-1)
    m = flex_blocks(T, S, W, torch.device('cpu'), block)
    i, j = torch.arange(T)[:,None], torch.arange(S)
    seen = (j <= i + extra) & (j >= i + extra - W)                # written without the functions of the chapter
    assert torch.equal(m.mask_mod(0, 0, i, j), seen)
    rows, cols = -(-T // block), -(-S // block)
    padded = torch.zeros(rows*block, cols*block, dtype=torch.bool)
    padded[:T,:S] = seen
    want = padded.view(rows, block, cols, block).any(3).any(1)
    assert torch.equal(m.to_dense()[0,0].bool(), want)
    for counts, order, w in ((m.kv_num_blocks, m.kv_indices, want), (m.q_num_blocks, m.q_indices, want.T)):
        for r in range(len(w)):
            assert sorted(order[0,0,r,:counts[0,0,r]].tolist()) == w[r].nonzero()[:,0].tolist()

@settings(deadline=None, derandomize=True, max_examples=60)
@given(shapes(), st.integers(1, 40), st.integers(0, 20), st.sampled_from([None, 0, 1, 5, 60]), st.integers(0, 99),
       st.data())
def test_flex_functions_in_an_ordinary_softmax(shape, T, extra, window, seed, data):
    B, H, G, K = shape
    S = T + extra
    slopes, R = alibi_slopes(H).double(), H // G
    q, k, v = qkv(seed, B, H, G, K, T, S)
    start = torch.tensor([data.draw(st.integers(0, extra)) for _ in range(B)])
    b, h, i, j = (torch.arange(n).view([-1 if d == e else 1 for e in range(4)]) for d,n in enumerate((B, H, T, S)))
    k2, v2 = k.repeat_interleave(R, 1), v.repeat_interleave(R, 1)
    s = flex_score(slopes, start)(q @ k2.mT / math.sqrt(K), b, h, i, j)
    mask = flex_mask(torch.tensor(S if window is None else window), torch.tensor(extra))
    out = s.masked_fill(~mask(b, h, i, j), -math.inf).softmax(-1) @ v2
    for r in range(B):
        alone = q[r:r+1], k[r:r+1,:,start[r]:], v[r:r+1,:,start[r]:]
        exact(out[r:r+1], dense(*alone, window, slopes))

def test_flex_is_chosen_only_where_it_can_serve(monkeypatch):
    def q(T=500, K=16, dtype=torch.float32, cuda=True):
        return SimpleNamespace(is_cuda=cuda, shape=(1, 9, T, K), dtype=dtype, device='cuda')
    slopes = alibi_slopes(9)
    monkeypatch.setattr(module, 'find_spec', lambda name: object())
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda device=None: (9, 0))
    assert use_flex(q(), slopes) and use_flex(q(dtype=torch.bfloat16), slopes) and use_flex(q(T=128, K=256), slopes)
    for bad in (dict(cuda=False), dict(T=127), dict(K=257), dict(dtype=torch.float64)):
        assert not use_flex(q(**bad), slopes)
    assert not use_flex(q(), slopes.clone().requires_grad_()) and not use_flex(q(), torch.zeros(9, 5))
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda device=None: (7, 5))
    assert not use_flex(q(), slopes)
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda device=None: (9, 0))
    monkeypatch.setattr(module, 'find_spec', lambda name: None)
    assert not use_flex(q(), slopes)
    x = qkv(0, 2, 4, 2, 3, 5)
    s = alibi_slopes(4)
    called = []
    monkeypatch.setattr(module, 'use_flex', lambda q, slopes: True)
    monkeypatch.setattr(module, 'attention_flex', lambda *a: called.append(a[3:]) or a[0])
    attention(*x, 2, s)
    attention(*x, 2, s, k_start=torch.tensor([0, 1]))
    attention(*x, 2, s, torch.arange(5), torch.arange(5))      # positions: the dense version
    assert [c[0] for c in called] == [2, 2] and called[0][2] is None and called[1][2].tolist() == [0, 1]

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU here')

@gpu
def test_gpu_equals_cpu():
    att, x = Attention(64, 4, 2, 16), torch.randn(2, 100, 64)
    torch.testing.assert_close(att.cuda()(x.cuda()).cpu(), att.cpu()(x), atol=1e-4, rtol=1e-4)

@gpu
@pytest.mark.parametrize('T,S,window', [(300, 300, 16), (129, 200, 0), (512, 512, None), (700, 900, 129)])
def test_gpu_flex_equals_plain_forward_and_backward(T, S, window):
    slopes = alibi_slopes(9).cuda()
    x = [t.float().cuda().requires_grad_() for t in qkv(0, 2, 9, 3, 14, T, S)]
    y = [t.detach().double().requires_grad_() for t in x]
    w = qkv(1, 2, 9, 3, 14, T)[0].cuda()
    a, b = attention_flex(*x, window, slopes), attention_fused(*y, window, slopes)
    torch.testing.assert_close(a.double(), b, atol=5e-3, rtol=5e-3)              # float32 products may be TF32: 10 bits
    both = torch.autograd.grad((a * w.float()).sum(), x), torch.autograd.grad((b * w).sum(), y)
    for g, h in zip(*both, strict=True):
        torch.testing.assert_close(g.double(), h, atol=2e-2, rtol=2e-2)

@pytest.mark.parametrize('dtype,allowed', [(torch.bfloat16, .03), (torch.float16, .004)])
@pytest.mark.parametrize('window', [0, 16, 300, None])
def test_sixteen_bits_forward_and_backward(dtype, allowed, window):
    "Finite, and off by no more than the rounding of 16-bit inputs explains: 8 or 11 bits, a few roundings."
    slopes = alibi_slopes(6)
    x = [t.to(dtype).requires_grad_() for t in qkv(0, 2, 6, 2, 14, 200)]
    y = [t.detach().double().requires_grad_() for t in x]
    a, b = attention(*x, window, slopes), attention(*y, window, slopes)
    w = qkv(1, 2, 6, 2, 14, 200)[0]
    low, high = torch.autograd.grad((a.double() * w).sum(), x), torch.autograd.grad((b * w).sum(), y)
    for m, n in zip((a, *low), (b, *high), strict=True):
        # with window 0 two gradients are zero
        assert m.isfinite().all() and (m.double() - n).abs().max() < allowed * n.abs().max().clamp(min=.01)

def test_bad_arguments_are_named():
    q, k, v = qkv(0, 1, 4, 2, 3, 5)
    s = alibi_slopes(4)
    for args, words in (((q, k, v, -2, s), 'window=-2'), ((q[:,:3], k, v, 2, s[:3]), '3 heads'),
                        ((q, k[:,:,:3], v[:,:,:3], 2, s), '3 keys'), ((q, k, v, 2, s[:2]), '2 entries')):
        with pytest.raises(ValueError, match=words): attention(*args)
    with pytest.raises(ValueError, match='q_pos is given and k_pos is not given'):
        attention(q, k, v, 2, s, q_pos=torch.arange(5))
    for args, words in (((64, 4, 3, 2), 'kv_heads=3'), ((64, 4, 0, 2), 'kv_heads=0'), ((3, 4, 2, 2), 'dim=3'),
                        ((64, 4, 2, -5), 'window=-5')):
        with pytest.raises(ValueError, match=words): Attention(*args)
    for rows, n in ((1, 1), (2, 1), (2, torch.tensor([0, 1])), (2, -1)):
        with pytest.raises(ValueError, match='at most'): KVCache(rows, 1, 2, 4, 2).rollback(n)
    for bad, words in ((dict(window=-1), 'window=-1'), (dict(window=None), 'window=None'),
                       (dict(window=3, max_rollback=-2), 'max_rollback=-2')):
        with pytest.raises(ValueError, match=words): KVCache(1, 1, 2, **bad)

def resident(): # bytes
    with open('/proc/self/statm') as f: return int(f.read().split()[1]) * os.sysconf('SC_PAGE_SIZE')

@pytest.mark.skipif(not os.path.exists('/proc/self/statm'), reason='resident memory is read from /proc')
@pytest.mark.parametrize('steps', [5_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_memory_stays_flat_however_much_is_read(steps):
    torch.manual_seed(0)
    att = Attention(384, 3, 1, 16).eval()                         # what a cache that forgets nothing held would show
    c = att.new_cache(2, max_rollback=4)
    x = torch.randn(2, 1, 384)
    with torch.inference_mode():
        for i in range(steps):
            att(x, c)
            if i % 3 == 2: c.rollback(torch.tensor([1, 2]))
            if i == 1_000: before = resident()
    assert resident() - before < 2e6 and c.length.tolist() == [steps - steps//3, steps - 2*(steps//3)]

@many
@given(shapes(), st.integers(1, 60), st.integers(0, 30), st.sampled_from([0, 1, 7, 16, 40, 90]), st.integers(0, 99),
       st.data())
def test_rows_with_empty_keys_in_front_equal_rows_alone(shape, T, extra, window, seed, data):
    B, H, G, K = shape
    slopes, start = alibi_slopes(H), [data.draw(st.integers(0, extra)) for _ in range(B)]
    q, k, v = qkv(seed, B, H, G, K, T, T + extra)
    out = attention(q, k, v, window, slopes, k_start=torch.tensor(start))
    for r, s in enumerate(start):
        exact(out[r:r+1], dense(q[r:r+1], k[r:r+1,:,s:], v[r:r+1,:,s:], window, slopes))

@pytest.mark.parametrize('T', [1, 3, 4, 20])
def test_one_plan_serves_all_caches_of_a_stack_in_any_order(T):
    "Blocks may be asked in any order, and each cache turns back by itself."
    slopes, B = alibi_slopes(4), 2
    first = KVCache(B, 2, 3, 5, 2, dtype=torch.double)
    second, alone = (KVCache(B, 2, 3, 5, 2, dtype=torch.double, ring=r) for r in (first.ring, None))
    for step, lengths in enumerate([None, torch.tensor([T, T//2]), None]):
        q, kv = joined(step, B, 4, 2, 3, T)
        plan = first.plan(T, slopes, torch.double, lengths)
        outs = [c.attend(q, kv, slopes, plan=plan) for c in ((second, first), (first, second))[step % 2]]
        want = alone.attend(q, kv, slopes, lengths)
        for out in outs: assert torch.equal(out, want)
        for c in (second, alone, first): c.rollback(min(T//2, 1))
        assert first.length.tolist() == second.length.tolist() == alone.length.tolist()
