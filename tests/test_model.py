"The model across chapters: causality, cutting, the original computed again, files that cannot hurt."
import dataclasses
import json
import math
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from safetensors.torch import save_file
from conftest import ORIGINAL
from pico.core import InputError
from pico.evaluate import bits_per_byte
from pico.model import PRESETS, Pico, PicoConfig
from pico.alibi import POSITIONS
from pico.router import ROUTERS
from pico.stories import story

fast = settings(deadline=None, derandomize=True, max_examples=40)
few = settings(fast, max_examples=12)    # for each router: without a list of its own it may never be drawn
every_router = pytest.mark.parametrize('router', sorted(ROUTERS))

@st.composite
def configs(draw, router=None):
    G = draw(st.integers(1, 3))
    H = G * draw(st.integers(1, 3))
    return PicoConfig(
        dim=H * draw(st.integers(1, 6)) + draw(st.integers(0, H-1)), next_tokens=draw(st.integers(1, 4)),
        att_q_heads=H, att_kv_heads=G,
        fb_num_blocks=draw(st.integers(0, 2)), fb_att_window_size=draw(st.integers(0, 9)),
        latent_capacity_factor=draw(st.sampled_from([0., .125, .25, .5, 1.])),
        latent_num_blocks=draw(st.integers(0, 3)), latent_att_window_size=draw(st.integers(0, 12)),
        router=router or draw(st.sampled_from(sorted(ROUTERS))), latent_carry=draw(st.booleans()),
        positions=draw(st.sampled_from(sorted(POSITIONS))), latent_summary=draw(st.booleans()),
        latent_shift=draw(st.booleans()))

def make(config, seed=0):
    "A double-precision model with weights large enough for mistakes to show and scores on both sides of the threshold."
    torch.manual_seed(seed)
    m = Pico(config).double().eval()
    with torch.no_grad():
        for p in m.parameters(): p.add_(torch.randn_like(p) * .1)
        for name, b in m.named_buffers():
            if name.endswith('router.pairs'): b.copy_(torch.rand(256, 256) < .3)           # as if it had counted
    return m

NINE = [f.name for f in dataclasses.fields(PicoConfig) if f.default is dataclasses.MISSING]

def test_presets_are_what_chapter_07_says():
    original = PicoConfig.preset('original')
    plain = PicoConfig.from_dict({k: getattr(original, k) for k in NINE})
    assert plain == dataclasses.replace(original, marks='bytes')
    for name in PRESETS.keys() - {'original'}:
        c = PicoConfig.preset(name)
        assert (c.router, c.positions, c.heads) == ('rising', 'relative', 'chained')
        assert c.latent_carry and c.latent_summary and c.latent_shift and not c.document_borders

def text(seed, B, T): return torch.randint(0, 256, (B, T), generator=torch.Generator().manual_seed(seed))

@every_router
@few
@given(st.integers(0, 10**6), st.data())
def test_causal(router, seed, data):
    "Invariant 1: changing byte t changes no output before t."
    m, T = make(data.draw(configs(router)), seed), data.draw(st.integers(2, 40))
    t = data.draw(st.integers(0, T-1))
    x = text(seed, 1, T)
    z = x.clone()
    z[0,t:] = text(seed+1, 1, T-t)
    a, b = m(x), m(z)
    torch.testing.assert_close(a.logits[:,:t], b.logits[:,:t], rtol=1e-12, atol=1e-12)
    assert torch.equal(a.routed[:,:t], b.routed[:,:t])

def test_topk_in_training_is_the_one_exception():
    m, x = make(PicoConfig.preset('nano', dim=24, **ORIGINAL)), text(0, 1, 40)
    moved = 0
    for v in range(64):
        z = x.clone()
        z[0,30] = v
        moved += not torch.equal(m(x, routing='train').routed[:,:30], m(z, routing='train').routed[:,:30])
    assert moved

@every_router
@few
@given(st.integers(0, 10**6), st.data())
def test_cutting_does_not_matter(router, seed, data):
    "Invariant 2: chunks through the cache, with bytes taken back in between, equal one pass."
    m, T, R = make(data.draw(configs(router)), seed), data.draw(st.integers(1, 50)), data.draw(st.integers(1, 6))
    x = text(seed, 2, T)
    whole = m(x)
    cache = m.new_cache(2, max_rollback=R)
    t, parts = 0, []
    while t < T:
        n = data.draw(st.integers(1, T-t))
        parts.append(m(x[:,t:t+n], cache=cache))
        t += n
        if data.draw(st.booleans()):
            wrong = text(seed+t, 2, R)
            m(wrong, cache=cache)
            cache.rollback(R)
    torch.testing.assert_close(torch.cat([p.logits for p in parts], 1), whole.logits)
    assert torch.equal(torch.cat([p.routed for p in parts], 1), whole.routed)
    assert cache.length.tolist() == [T, T]

@every_router
@few
@given(st.integers(0, 10**6), st.data())
def test_ragged_rows_equal_rows_alone(router, seed, data):
    "Invariant 2: rows of different lengths, each continued and rolled back by its own number of bytes."
    m, B, R = make(data.draw(configs(router)), seed), data.draw(st.integers(1, 4)), 5
    first = torch.tensor(data.draw(st.lists(st.integers(1, 20), min_size=B, max_size=B)))
    more = torch.tensor(data.draw(st.lists(st.integers(1, 12), min_size=B, max_size=B)))
    back = torch.tensor([data.draw(st.integers(0, min(R, int(n)))) for n in more])
    x, y, z = text(seed, B, 20), text(seed+1, B, 12), text(seed+2, B, 7)
    cache = m.new_cache(B, max_rollback=R)
    m(x[:,:first.max()], cache=cache, lengths=first)
    m(y[:,:more.max()], cache=cache, lengths=more)
    cache.rollback(back)
    last = m(z, cache=cache)
    for b in range(B):
        kept = y[b,:more[b]-back[b]]
        alone = m(torch.cat([x[b,:first[b]], kept, z[b]])[None])
        torch.testing.assert_close(last.logits[b], alone.logits[0,-7:])
        assert torch.equal(last.routed[b], alone.routed[0,-7:])

@pytest.mark.parametrize('design', [ORIGINAL, {}], ids=['original', 'today'])
def test_float32_agrees_but_for_counted_near_ties(design):
    "Invariant 2 in float32: 1e-4, except after a router score within 1e-4 of its threshold; such cases are counted."
    ties = 0
    for seed in range(12):
        m, x = make(PicoConfig.preset('nano', dim=48, **design), seed).float(), text(seed, 1, 200)
        whole, cache = m(x), m.new_cache(1)
        parts = torch.cat([m(x[:,t:t+1], cache=cache).logits for t in range(200)], 1)
        far = (whole.logits - parts).abs().amax((0,2,3)) > 1e-4
        near = (whole.router_logits[0].abs() < 1e-4).nonzero()
        if far.any():
            assert len(near) and near.min() <= far.nonzero().min()
            ties += 1
    assert ties <= 2

# --- the original, computed again without any of our modules ----------------------------------------------------------

def original(w, c, x, train):
    "The original's architecture, gate mended, straight from its description; loops where loops are clearer."
    H, G, K = c.att_q_heads, c.att_kv_heads, c.dim // c.att_q_heads
    def norm(h, g): return h / (h.pow(2).mean(-1, keepdim=True) + torch.finfo(h.dtype).eps).sqrt() * g
    def block(h, name, window):
        T = len(h)
        qkv = (norm(h, w[f'{name}.norm1.weight']) @ w[f'{name}.att.fused_qkv.weight'].T).view(T, H+2*G, K)
        out = torch.zeros(T, H, K, dtype=h.dtype)
        back = (torch.arange(T)[:,None] - torch.arange(T)).double()
        for i in range(H):
            q, k, v = qkv[:,i], qkv[:,H + i//(H//G)], qkv[:,H+G + i//(H//G)]
            s = q @ k.T / math.sqrt(K) - 2**(-8*(i+1)/H) * back
            s[(back < 0) | (back > window)] = -math.inf
            out[:,i] = s.softmax(-1) @ v
        h = h + out.reshape(T, H*K) @ w[f'{name}.att.proj.weight'].T
        value, gate = (norm(h, w[f'{name}.norm2.weight']) @ w[f'{name}.glu.fc1.weight'].T).chunk(2, -1)
        return h + (value * gate * torch.sigmoid(gate)) @ w[f'{name}.glu.fc2.weight'].T
    rows = []
    for row in x:
        h = w['embedding.weight'][row]
        for i in range(c.fb_num_blocks): h = block(h, f'fb_in.blocks.{i}', c.fb_att_window_size)
        weight = torch.sigmoid(h @ w['latent.router.weight'][0])
        if train: chosen = weight.argsort(descending=True, stable=True)[:int(len(h)*c.latent_capacity_factor)].tolist()
        else: chosen = [t for t in range(len(h)) if weight[t] > .5]
        chosen.sort()
        if chosen:
            deep = h[chosen]
            for i in range(c.latent_num_blocks): deep = block(deep, f'latent.blocks.{i}', c.latent_att_window_size)
            h = h.clone()
            h[chosen] += weight[chosen][:,None] * (deep - h[chosen])
        for i in range(c.fb_num_blocks): h = block(h, f'fb_out.blocks.{i}', c.fb_att_window_size)
        out = norm(h, w['norm.weight']) @ w['unembedding.weight'].T + w['unembedding.bias']
        rows.append(out.view(len(h), c.next_tokens, 256))
    return torch.stack(rows)

SHAPES = dict(xs=dict(),
              xs372=dict(dim=372, latent_num_blocks=8, fb_att_window_size=32),
              small=dict(dim=50, att_q_heads=4, att_kv_heads=2, next_tokens=3, latent_num_blocks=2,
                         latent_att_window_size=5, fb_att_window_size=3))

@pytest.mark.parametrize('shape', SHAPES)
@pytest.mark.parametrize('routing', ['causal', 'train'])
def test_original_checkpoint_and_independent_computation(shape, routing, tmp_path):
    c = PicoConfig.preset('xs', **ORIGINAL | SHAPES[shape])
    d, D, H, G = tmp_path/'m', c.dim, c.att_q_heads, c.att_kv_heads
    K = D // H
    g = torch.Generator().manual_seed(1)
    def rand(*s): return torch.randn(*s, generator=g, dtype=torch.double) / (s[-1]**.5 if len(s) > 1 else 5)
    w = {'embedding.weight': rand(256, D)*4, 'unembedding.weight': rand(256*c.next_tokens, D),
         'unembedding.bias': rand(256*c.next_tokens), 'norm.weight': 1+rand(D), 'latent.router.weight': rand(1, D)}
    for part, n in (('fb_in', c.fb_num_blocks), ('latent', c.latent_num_blocks), ('fb_out', c.fb_num_blocks)):
        for i in range(n):
            p = f'{part}.blocks.{i}'
            w |= {f'{p}.norm1.weight': 1+rand(D), f'{p}.norm2.weight': 1+rand(D),
                  f'{p}.att.fused_qkv.weight': rand((H+2*G)*K, D), f'{p}.att.proj.weight': rand(D, H*K),
                  f'{p}.glu.fc1.weight': rand(2*D, D), f'{p}.glu.fc2.weight': rand(D, D)}
    (d/'run').mkdir(parents=True)
    fields = {k: c.to_dict()[k] for k in NINE}                    # what a file of the original has
    (d/'model.json').write_text(json.dumps(fields))
    save_file({k: v.float() for k,v in w.items()}, d/'run'/'00000007.safetensors')
    save_file({k: v.float()*0 for k,v in w.items()}, d/'run'/'00000003.safetensors')
    m = Pico.from_original(d, run='run').double()
    assert m.config == dataclasses.replace(c, marks='tags')
    x = text(5, 2, 60)
    w = {k: v.float().double() for k,v in w.items()}
    # float64 norms use float64's epsilon in torch and above alike
    for mod in m.modules():
        if isinstance(mod, torch.nn.RMSNorm): assert mod.eps is None
    expected = original(w, c, x, routing == 'train')
    torch.testing.assert_close(m(x, routing=routing).logits, expected, rtol=1e-6, atol=1e-6)

def test_from_original_names_what_is_missing(tmp_path):
    with pytest.raises(InputError, match='model.json'): Pico.from_original(tmp_path, run='r')
    fields = {k: v for k,v in PicoConfig.preset('original').to_dict().items() if k not in ('router', 'marks')}
    (tmp_path/'model.json').write_text(json.dumps(fields))
    with pytest.raises(InputError, match='NNNNNNNN'): Pico.from_original(tmp_path, run='r')

# --- loss, configuration, files ---------------------------------------------------------------------------------------

@fast
@given(configs(), st.integers(0, 10**6))
def test_loss_equals_plain_cross_entropy_of_the_logits(config, seed):
    m, x = make(config, seed).train(), text(seed, 2, 30)
    y = torch.randint(-1, 256, (2, 30, config.next_tokens))
    y[y < 0] = -100
    loss, out = m.loss(x, y), m(x)
    per = torch.stack([F.cross_entropy(out.logits[:,:,n].flatten(0,1), y[...,n].flatten(), ignore_index=-100)
                       for n in range(config.next_tokens)])
    torch.testing.assert_close(loss.per_head, per)
    w = torch.tensor([((1+5**.5)/2)**-n for n in range(config.next_tokens)], dtype=torch.double)
    lm = (w/w.sum() * per).sum()
    if config.router == 'topk':
        aux = F.binary_cross_entropy_with_logits(out.router_logits, out.routed.double())
        torch.testing.assert_close(loss.total, .9*lm + .1*aux, rtol=1e-6, atol=1e-7)
    elif out.router_logits is None: torch.testing.assert_close(loss.total, lm, rtol=1e-6, atol=1e-7)

@pytest.mark.parametrize('design', [ORIGINAL, dict(heads_every=4)], ids=['original', 'today'])
def test_every_parameter_gets_a_gradient(design):
    m = make(PicoConfig.preset('nano', dim=24, **design)).train()
    x = text(0, 2, 64)
    m.loss(x[:,:-4], x.unfold(1, 5, 1)[...,1:]).total.backward()
    for n,p in m.named_parameters(): assert p.grad is not None and p.grad.abs().sum() > 0, n

@pytest.mark.parametrize('change, words', [
    (dict(att_kv_heads=4), 'att_kv_heads=4'), (dict(dim=-1), 'dim=-1'), (dict(dim=3), 'dim=3'),
    (dict(router='best'), "'best'"), (dict(latent_carry='maybe'), "'maybe'"), (dict(latent_carry=1), 'latent_carry=1'),
    (dict(marks='?'), "'?'"), (dict(latent_capacity_factor=1.5), '1.5'),
    (dict(latent_capacity_factor=float('nan')), 'nan'), (dict(next_tokens=0), 'next_tokens=0'),
    (dict(next_tokens=2.5), '2.5'), (dict(dim=True), 'True'), (dict(nonsense=1), 'nonsense'),
])
def test_config_names_the_field_and_the_value(change, words):
    with pytest.raises(ValueError, match=words.replace('?', r'\?')): PicoConfig.preset('xs', **change)

json_values = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
                           lambda c: st.lists(c, max_size=3) | st.dictionaries(st.text(max_size=8), c, max_size=3),
                           max_leaves=6)

@settings(deadline=None, derandomize=True, max_examples=60)
@given(st.one_of(st.binary(max_size=60),
                 st.tuples(st.sampled_from(sorted(PicoConfig.preset('nano').to_dict())), json_values)))
def test_a_corrupt_config_gives_one_clear_error(tmp_path_factory, bad):
    "Invariant 6 and bad input: whatever config.json holds, loading gives a model or one InputError."
    d = tmp_path_factory.mktemp('c')
    good = PicoConfig.preset('nano').to_dict()
    (d/'config.json').write_bytes(bad if isinstance(bad, bytes) else json.dumps(good | {bad[0]: bad[1]}).encode())
    with pytest.raises(InputError) as e: Pico.from_pretrained(d)      # never succeeds: there are no weights beside it
    assert '\n' not in str(e.value)

def test_weights_are_never_unpickled(tmp_path):
    "Invariant 6: a pickle in place of, or beside, the weights is not opened."
    import pickle
    class Bomb:
        def __reduce__(self): return (open, (str(tmp_path/'exploded'), 'w'))
    Pico(PicoConfig.preset('nano')).save_pretrained(tmp_path)
    for name in ('model.safetensors', 'pytorch_model.bin'): (tmp_path/name).write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(InputError): Pico.from_pretrained(tmp_path)
    (tmp_path/'model.safetensors').unlink()
    with pytest.raises(InputError, match='no weights'): Pico.from_pretrained(tmp_path)
    assert not (tmp_path/'exploded').exists()

def test_unknown_hub_id_without_network(monkeypatch):
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    import huggingface_hub.constants as c
    monkeypatch.setattr(c, 'HF_HUB_OFFLINE', True)
    with pytest.raises(InputError, match='somebody/nothing'): Pico.from_pretrained('somebody/nothing')

def test_weights_of_another_shape_are_named(tmp_path):
    m = Pico(PicoConfig.preset('nano'))
    m.save_pretrained(tmp_path)
    (tmp_path/'config.json').write_text(json.dumps(m.config.to_dict() | dict(dim=48)))
    with pytest.raises(InputError, match='shape'): Pico.from_pretrained(tmp_path)

@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_numbers_of_sixteen_bits_score_as_those_of_32(dtype):
    model, text = Pico.from_pretrained('stories'), story(0, seed=7).text[:600]
    assert bits_per_byte(model.to(dtype), text).bpb == pytest.approx(bits_per_byte(model.float(), text).bpb, abs=.002)

def test_no_bytes_give_no_logits():
    model = Pico(PicoConfig.preset('nano', dim=24, latent_num_blocks=1)).eval()
    nothing = torch.zeros(1, 0, dtype=torch.long)
    with torch.no_grad():
        for cache in (None, model.new_cache()): assert model(nothing, cache=cache).logits.shape == (1, 0, 4, 256)

def test_a_cache_of_inference_mode_goes_on_outside_it():
    "With borders, too, where a document begins anew."
    torch.manual_seed(1)
    model = Pico(PicoConfig.preset('nano', dim=24, latent_num_blocks=1, document_borders=True)).double().eval()
    x, cache = torch.tensor([list(b'\xfea cat\xfea dog ran')]), model.new_cache()
    with torch.inference_mode(): first = model(x[:,:4], cache=cache).logits
    with torch.no_grad(): later, whole = model(x[:,4:], cache=cache).logits, model(x).logits
    torch.testing.assert_close(torch.cat([first, later], 1), whole)

def test_a_cache_does_not_grow_a_graph():
    "Outside `no_grad` what is remembered belongs to nobody's gradient."
    torch.manual_seed(0)
    model = Pico(PicoConfig.preset('nano', dim=24)).eval()
    x, cache = torch.randint(256, (1, 12)), model.new_cache(1)
    for t in range(11): model(x[:,t:t+1], cache=cache)
    assert not cache.latent.last.requires_grad
    before = cache.latent.length
    model(x[:,11:], cache=cache).logits.sum().backward()
    assert (cache.latent.length - before).tolist() == [1]
