"""A router of one's own is one small class: once registered it trains, goes on after a break, is evaluated, and writes
by both decoders. Nothing else in the package knows it."""
import json
import re
from pathlib import Path
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
import pico.generate
from conftest import ROOT
from pico.data import Corpus
from pico.decode import Decoder
from pico.evaluate import bits_per_byte, router_report
from pico.generate import generate
from pico.core import InputError
from pico.heads import HEADS, ByteHeads
from pico.model import Pico, PicoConfig
from pico.page import page
from pico.router import ROUTERS, RisingRouter, Route, Router, TopKRouter, TunedRouter, router
from pico.capacity import RunningQuantile
from pico.costs import flops_per_byte
from pico.train import TrainConfig, train

TEXT = Corpus.from_bytes([f'Anna has {i} apples, {i}{i} kittens, and a good book. '.encode() for i in range(200)])
SET = TrainConfig(context_len=64, batch_size=4, learning_rate=3e-3, warmup_steps=2, schedule='constant',
                  checkpoint_interval=3, validation_interval=0, validation_bytes=300)

def doubled():
    "The router that CONTRIBUTING shows: every byte that equals the one before."
    page = (ROOT/'CONTRIBUTING.md').read_text(encoding='utf-8')
    names = {}
    exec(re.search(r'^```python\n(.*?)^```', page, re.S | re.M)[1], names)
    return names['DoubledRouter']

class Surprised(Router):
    "Learned, with a running state: bytes whose score passes its quantile, unless the byte is a vowel."
    carries = True
    def __init__(self, dim, capacity):
        super().__init__(dim, capacity)
        self.score, self.quantile = nn.Linear(dim, 1), RunningQuantile(capacity)

    def forward(self, x, values, before, position, train=False):
        logits = self.score(F.rms_norm(x, x.shape[-1:]))[...,0]
        if train and self.training: self.quantile.count(logits)
        vowel = torch.isin(values, torch.tensor(list(b'aeiou')))
        over = logits - self.quantile.value.to(logits.dtype)
        return Route((over > 0) & ~vowel, torch.sigmoid(over), logits)

class Late(TopKRouter):
    "One that inherits a NumPy rule and decides otherwise: nothing in the first 20 bytes."
    def forward(self, x, values, before, position, train=False):
        route = super().forward(x, values, before, position, train)
        route.chosen = route.chosen & (position >= 20)
        return route

@pytest.fixture(params=[doubled, lambda: Surprised, lambda: Late], ids=['doubled', 'surprised', 'late'])
def name(request):
    "Registered for one test: other tests go through all routers that there are."
    before = dict(ROUTERS)
    router('toy')(request.param())
    yield 'toy'
    ROUTERS.clear()
    ROUTERS.update(before)

def config(name):
    return PicoConfig(dim=24, next_tokens=3, att_q_heads=4, att_kv_heads=2, fb_num_blocks=1, fb_att_window_size=8,
                      latent_capacity_factor=.4, latent_num_blocks=1, latent_att_window_size=6, router=name)

def go(out, name, steps): return train(out, TEXT, config(name), steps, TEXT, progress=False)

def weights(out): return (Path(out)/'model.safetensors').read_bytes()

def test_it_trains_and_goes_on(name, tmp_path):
    "Six steps without a break, and three and three: the same weights, running state included."
    def settings(n): return TrainConfig(**vars(SET) | dict(max_steps=n))
    go(tmp_path/'a', name, settings(6))
    for n in (3, 6): model = go(tmp_path/'b', name, settings(n))
    assert weights(tmp_path/'a') == weights(tmp_path/'b')
    assert json.loads((tmp_path/'b'/'config.json').read_text())['router'] == 'toy'
    r = model.latent.router
    assert all(not t.any() for t in r.counted())                  # used up
    if isinstance(r, Surprised): assert len(r.counted()) == 1 and r.quantile.value != 0
    again = Pico.from_pretrained(tmp_path/'b')
    assert type(again.latent.router) is ROUTERS['toy']

def test_it_is_evaluated_and_counted(name):
    torch.manual_seed(0)
    model = Pico(config(name)).eval()
    assert 0 < bits_per_byte(model, TEXT, 500).bpb < 20
    assert str(router_report(model, TEXT, 500)).count('toy') == 1      # its name is all that is known of it there
    numbers = sum(p.numel() for p in model.latent.router.parameters())
    assert flops_per_byte(config(name)) - flops_per_byte(config('random')) == 6 * numbers

@pytest.mark.parametrize('temperature', [0, .1])
def test_both_decoders_write_the_same(name, temperature, monkeypatch):
    torch.manual_seed(1)
    model = Pico(config(name)).double().eval()
    for p in model.parameters(): nn.init.normal_(p, std=.3)
    prompts, how = ['', 'Anna took her book.', 'кот и пёс'], dict(max_bytes=40, speculative=True, ignore_end=True)
    def write(): return [(g.bytes, g.routed) for g in generate(model, prompts, temperature=temperature, **how)]
    assert pico.generate.quick(model)
    fast = write()
    monkeypatch.setattr(pico.generate, 'quick', lambda model: False)
    assert fast == write()
    routed = [r for _, row in fast for r in row]
    assert any(routed) and not all(routed)

class Squared(TopKRouter):
    "One whose weight counts twice."
    def factor(self, route): return route.weight**2

class Vowels(TunedRouter):
    "One that begins elsewhere and does not say so for NumPy."
    def begins(self, values, before): return torch.isin(values, torch.tensor(list(b'aeiou')))

@pytest.mark.parametrize('cls', [Squared, Vowels])
def test_a_part_that_numpy_does_not_know_is_asked_in_pytorch(cls, monkeypatch):
    torch.manual_seed(2)
    monkeypatch.setitem(ROUTERS, 'toy', cls)
    model = Pico(config('toy')).double().eval()
    for p in model.parameters(): nn.init.normal_(p, std=.3)
    x = list(b'Anna took her good old book.')
    with torch.no_grad(): out = model(torch.tensor([x]))
    if cls is Vowels:
        _, logits, routed, _ = Decoder(model).read([x])
        np.testing.assert_allclose(logits, out.logits[0,:,0].numpy(), atol=1e-9)
        assert routed == out.routed[0].tolist()
    assert pico.generate.quick(model) == (cls is Vowels)
    g = generate(model, bytes(x), 20, temperature=0, ignore_end=True)
    with torch.no_grad(): whole = model(torch.tensor([[0xfe, *x, *g.bytes]])).logits[0,len(x):-1,0]
    assert whole.argmax(-1).tolist() == list(g.bytes)

class Weighed(RisingRouter):
    "One whose routed bytes have a weight."
    weighs = True

class Capped(ByteHeads):
    "Heads of one's own: logits between -3 and 3."
    def forward(self, *args): return 3 * torch.tanh(super().forward(*args) / 3)

class Muted(Pico):
    "A model of one's own."
    def states(self, *args, **kw):
        h, *rest = super().states(*args, **kw)
        return 0 * h, *rest

def hooked(model):
    "The last full-byte blocks say nothing."
    model.fb_out.register_forward_hook(lambda module, args, out: 0 * out)
    return model

def of_ones_own(how, monkeypatch):
    "A model, changed in one way."
    monkeypatch.setitem(HEADS, 'capped', Capped)
    changes = dict(rising=dict(router='rising'), heads=dict(heads='capped'))
    c = PicoConfig.preset('nano', dim=24, latent_num_blocks=1, **changes.get(how, {}))
    if how == 'rising': monkeypatch.setitem(ROUTERS, 'rising', Weighed)
    torch.manual_seed(5)
    model = (Muted if how == 'class' else Pico)(c).double().eval()
    for p in model.parameters(): nn.init.normal_(p, std=.3)
    return hooked(model) if how == 'hook' else model

@pytest.mark.parametrize('how', ['rising', 'heads', 'class', 'hook'])
def test_what_is_scored_is_what_is_written(how, monkeypatch):
    "Whatever of the model is one's own: what only PyTorch knows is asked there."
    model, x = of_ones_own(how, monkeypatch), list(b'Anna took her good old book.')
    if how == 'rising': model.latent.router.pairs[:,ord(' ')] = True
    with torch.no_grad(): out = model(torch.tensor([x]))
    assert pico.generate.quick(model) == (how == 'rising')
    if how == 'rising': np.testing.assert_allclose(Decoder(model).read([x])[1], out.logits[0,:,0].numpy(), atol=1e-9)
    for speculative in (False, True):
        g = generate(model, bytes(x), 20, temperature=0, ignore_end=True, speculative=speculative)
        with torch.no_grad(): whole = model(torch.tensor([[0xfe, *x, *g.bytes]])).logits[0,len(x):-1,0]
        assert whole.argmax(-1).tolist() == list(g.bytes)
    if how != 'heads': return
    with pytest.raises(InputError, match='capped'): page(model, max_bytes=300)

def test_the_registry_is_as_it_was(): assert 'toy' not in ROUTERS
