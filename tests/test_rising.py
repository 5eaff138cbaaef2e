"The router that counts before it learns: once for a run, in one process for all, from a corpus or a stream."
import dataclasses
import json
import numpy as np
import pytest
import torch
import processes
from conftest import SHORT, steps_of, tiny_config, weights
from pico.checkpoint import latest, load
from pico.counts import cut, rising_pairs, symbols, uncertainty
from pico.data import Corpus
from pico.generate import generate
from pico.model import Pico
from pico.router import RisingRouter
from pico.stories import story
from pico.streaming import Stream
from pico.train import train

CONFIG = tiny_config(router='rising', latent_carry=True, latent_capacity_factor=3/16)
STORIES = Corpus.from_bytes([story(i).text.encode() for i in range(60)])
def go(out, source=STORIES, **changes):
    settings = dataclasses.replace(SHORT, validation_interval=0, **changes)
    return train(out, source, CONFIG, settings, STORIES, progress=False)

def test_it_begins_at_what_was_counted_and_the_table_is_saved(tmp_path):
    model = go(tmp_path/'a')
    expect = rising_pairs(STORIES.excerpt(), 3/16)
    assert expect.any() and torch.equal(model.latent.router.pairs, torch.from_numpy(expect))
    assert torch.equal(Pico.from_pretrained(tmp_path/'a').latent.router.pairs, model.latent.router.pairs)
    saved, _ = load(latest(tmp_path/'a'/'checkpoints'))
    assert torch.equal(saved['latent.router.pairs'], model.latent.router.pairs)

def test_it_never_counts_again(tmp_path, monkeypatch):
    assert processes.run(lambda: go(tmp_path/'a', max_steps=12)) == 0
    for n in (4, 8):
        assert processes.killed(lambda: go(tmp_path/'b', max_steps=12), lambda n=n: steps_of(tmp_path/'b') >= n)
    def again(self, source): raise AssertionError('counted again')
    monkeypatch.setattr(RisingRouter, 'begin', again)
    assert processes.run(lambda: go(tmp_path/'b', max_steps=12)) == 0
    assert weights(tmp_path/'a') == weights(tmp_path/'b')

def test_two_processes_share_one_table(tmp_path):
    assert processes.run(lambda: go(tmp_path/'1')) == 0
    pids = processes.group(2, lambda rank: go(tmp_path/'2'), tmp_path)
    assert [processes.wait(p, 240) for p in pids] == [0, 0]
    one, two = (Pico.from_pretrained(tmp_path/n) for n in '12')
    assert one.latent.router.pairs.any() and torch.equal(one.latent.router.pairs, two.latent.router.pairs)
    for p, q in zip(one.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(p, q, atol=1e-4, rtol=1e-3)

def test_a_stream_gives_its_beginning_and_goes_on_exactly(tmp_path):
    file = tmp_path/'rows.jsonl'
    file.write_text(''.join(json.dumps(dict(text=story(i).text)) + '\n' for i in range(200)))
    assert processes.run(lambda: go(tmp_path/'a', Stream(file), max_steps=9)) == 0
    assert processes.killed(lambda: go(tmp_path/'b', Stream(file), max_steps=9), lambda: steps_of(tmp_path/'b') >= 5)
    assert processes.run(lambda: go(tmp_path/'b', Stream(file), max_steps=9)) == 0
    assert weights(tmp_path/'a') == weights(tmp_path/'b')
    pairs = Pico.from_pretrained(tmp_path/'a').latent.router.pairs
    assert torch.equal(pairs, torch.from_numpy(rising_pairs(Stream(file).excerpt(), 3/16))) and pairs.any()

def test_an_average_of_the_weights_starts_behind_the_table(tmp_path):
    assert processes.run(lambda: go(tmp_path/'a', average=.9, max_steps=1)) == 0
    assert Pico.from_pretrained(tmp_path/'a').latent.router.weight.abs().max() < .01       # not the random beginning

def test_without_counts_it_still_learns():
    torch.manual_seed(0)
    model, x = Pico(CONFIG).train(), torch.randint(0, 256, (2, 64))
    routed = model(x).routed.float().mean()
    assert 0 < routed <= 3/16
    model.loss(x, x[...,None].expand(-1, -1, CONFIG.next_tokens)).total.backward()
    assert model.latent.router.weight.grad.abs().sum() > 0

@pytest.mark.parametrize('quick', [True, False])
def test_a_written_byte_tells_its_weight_though_it_counts_as_one(quick):
    torch.manual_seed(0)
    model = Pico(CONFIG)
    model.latent.router.begin(STORIES)
    if not quick: model = model.to(torch.bfloat16)                # read by the module, not in NumPy
    g = generate(model.eval(), 'Once upon a time', max_bytes=40)
    assert all(0 < w < 1 for w in g.router_weights)
    assert [w > .5 for w in g.router_weights] == g.routed

def test_symbols_take_every_byte_as_it_comes():
    rng = np.random.default_rng(0)
    for _ in range(50):
        v = rng.integers(0, 256, rng.integers(0, 300)).astype(np.uint8)
        s, last = symbols(v)
        assert len(s) == len(last) == len(uncertainty(s)) and (np.diff(last) > 0).all()
        assert not len(v) or last[-1] < len(v)
        assert rising_pairs(v, 3/16).shape == (256, 256)

@pytest.mark.parametrize('capacity', [.05, 3/16, .5])
def test_what_is_above_the_cut_fits_the_budget(capacity):
    v = STORIES.excerpt()
    s, last = symbols(v)
    found = rising_pairs(v, capacity)
    before = np.append(255, v[:-1])
    share = found[before[last], v[last]].sum() / len(v)
    assert capacity/2 - .02 < share <= capacity

def test_the_cut_is_that_of_most_variance():
    rng = np.random.default_rng(1)
    for _ in range(20):
        mean = np.sort(rng.normal(size=12))[::-1]
        count = rng.integers(1, 9, 12)
        values = np.repeat(mean, count)
        def between(k, mean=mean, count=count, values=values):
            n = count[:k].sum()
            a, b = values[:n], values[n:]
            return len(a) * len(b) * (a.mean() - b.mean())**2 if len(b) else 0
        most = count.sum()
        fits = [k for k in range(1, 13) if count[:k].sum() * 2 >= most]
        assert cut(mean, count, most) == max(fits, key=between)
