"Two decoders, NumPy and PyTorch, write the same text: every router, greedy and drawn, alone and in a batch."
import numpy as np
import pytest
import torch
import pico.generate
from pico.core import InputError
from pico.generate import generate
from pico.heads import HEADS
from pico.model import Pico, PicoConfig
from pico.router import ROUTERS

def config(**changes):
    "A tiny shape with every field written out; windows so short that texts leave them."
    fields = dict(dim=24, next_tokens=3, att_q_heads=4, att_kv_heads=2, fb_num_blocks=1, fb_att_window_size=8,
                  latent_capacity_factor=.4, latent_num_blocks=1, latent_att_window_size=6, router='topk',
                  latent_carry='no', marks='bytes', heads='linear', heads_every=1, positions='alibi',
                  latent_summary=False, latent_shift=False)
    return PicoConfig(**fields | changes)

def make(seed=0, dtype=torch.float64, **changes):
    "A model with random weights in which nothing is zero: shares, gates, thresholds and rules all differ."
    torch.manual_seed(seed)
    model = Pico(config(**changes)).to(dtype)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith('router.rule'): p.fill_(.3)          # so small that the score often decides otherwise
            else: p.add_(.1 * torch.randn_like(p))
        for name, b in model.named_buffers():
            if name.endswith('quantile.value'): b.fill_(.05)
            if name.endswith('router.pairs'): b.copy_(torch.rand(256, 256) < .3)
    return model.eval()

def allowed():
    "Routers with and without carrying, where a model can be made of them."
    for router in ROUTERS:
        for carry in ('no', 'yes'):
            try: config(router=router, latent_carry=carry)
            except InputError: continue
            yield router, carry

def both(monkeypatch, model, prompt, **how):
    "What the NumPy decoder writes, and what the model itself does with that one switched off."
    assert pico.generate.quick(model)
    # 'auto' goes by the clock: its passes are no fixed number
    how = dict(speculative=True) | how
    fast = generate(model, prompt, ignore_end=True, **how)
    with monkeypatch.context() as m:
        m.setattr(pico.generate, 'quick', lambda model: False)
        m.setattr(pico.generate, 'Decoder', None)                 # nobody uses it by another way
        plain = generate(model, prompt, ignore_end=True, **how)
    return (fast, plain) if isinstance(prompt, list) else ([fast], [plain])

def same(fast, plain, size):
    "Texts, routed bytes, drafts that stood: equal. Weights: to the precision in which they are handed out."
    for a, b in zip(fast, plain, strict=True):
        assert len(a.bytes) == size and (a.bytes, a.routed) == (b.bytes, b.routed)
        assert (a.forwards, a.accepted) == (b.forwards, b.accepted)
        none = [w is None for w in a.router_weights]
        assert none == [w is None for w in b.router_weights]
        if not any(none): np.testing.assert_allclose(a.router_weights, b.router_weights, rtol=1e-6, atol=1e-9)

RAGGED = ['', 'Mia has a red cat.', b'\x00\xff\xfe', 'кот и пёс, ' * 4]

@pytest.mark.parametrize('temperature', [0, .8])
@pytest.mark.parametrize('router, carry', list(allowed()))
def test_every_router(monkeypatch, router, carry, temperature):
    model = make(router=router, latent_carry=carry)
    how = dict(max_bytes=40, temperature=temperature)
    fast, plain = both(monkeypatch, model, RAGGED, **how)
    same(fast, plain, 40)
    alone = both(monkeypatch, model, RAGGED[1], **how)
    same(*alone, 40)
    assert alone[0][0].bytes == fast[1].bytes                     # a row of a batch is what it is alone
    routed = sum(sum(a.routed) for a in fast)
    if router in ('all', 'none'): assert routed == {'all': 40 * len(RAGGED), 'none': 0}[router]
    elif temperature and router != 'whitespace': assert 0 < routed < 40 * len(RAGGED)

@pytest.mark.parametrize('heads', HEADS)
@pytest.mark.parametrize('how', [dict(speculative=False), dict(draft='likely'), dict(lookup=False), dict(top_p=.5)])
def test_every_way_of_drafting(monkeypatch, heads, how):
    for router, carry in (('tuned', 'yes'), ('topk', 'no')):
        model = make(router=router, latent_carry=carry, heads=heads)
        same(*both(monkeypatch, model, RAGGED[:2], max_bytes=24, temperature=.8, **how), 24)

def test_a_text_that_repeats_itself_and_prompts_longer_than_a_piece(monkeypatch):
    "Copies are long drafts, most of which are taken back; prompts are read in pieces of 256 bytes."
    prompts = ['Mia has a red cat. ' * 20, 'one two three four five six seven ' * 9, 'x']
    for router, carry in (('tuned', 'yes'), ('space', 'yes'), ('predictor', 'no')):
        same(*both(monkeypatch, make(router=router, latent_carry=carry), prompts, max_bytes=40, temperature=.3), 40)
    today = make(router='rising', latent_carry='yes', **TODAY)
    same(*both(monkeypatch, today, prompts, max_bytes=40, temperature=.3), 40)

SHAPES = [dict(fb_num_blocks=0), dict(latent_num_blocks=0), dict(latent_num_blocks=2, fb_num_blocks=2),
          dict(next_tokens=1), dict(latent_capacity_factor=0), dict(latent_capacity_factor=1),
          dict(att_kv_heads=4, marks='tags'), dict(fb_att_window_size=0), dict(latent_att_window_size=0)]
TODAY = dict(positions='relative', latent_summary=True, latent_shift=True, heads='chained')
SHAPES += [TODAY, TODAY | dict(latent_att_window_size=0), TODAY | dict(fb_att_window_size=0)]

@pytest.mark.parametrize('changes', SHAPES)
@pytest.mark.parametrize('router, carry', [('tuned', 'yes'), ('stride', 'no'), ('rising', 'yes')])
def test_other_shapes(monkeypatch, changes, router, carry):
    model = make(router=router, latent_carry=carry, **changes)
    same(*both(monkeypatch, model, RAGGED[1:], max_bytes=16, temperature=.8), 16)

@pytest.mark.parametrize('router, carry', [('tuned', 'yes'), ('space', 'no'), ('threshold', 'yes')])
def test_without_the_latent_blocks(monkeypatch, router, carry):
    fast, plain = both(monkeypatch, make(router=router, latent_carry=carry), RAGGED, max_bytes=16, latent=False)
    same(fast, plain, 16)
    assert not any(any(a.routed) for a in fast)
