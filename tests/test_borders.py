"Where documents are kept apart, each gives what it gives alone: in training, scoring, reading and writing."
import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from pico.batches import batch
from pico.core import InputError
from pico.data import Corpus
from pico.decode import Decoder
from pico.evaluate import bits_per_byte, surprise
from pico.generate import generate
from pico.model import BEGIN, Pico, PicoConfig
from pico.router import ROUTERS
from pico.train import TrainConfig, train

SHAPE = dict(dim=24, fb_num_blocks=1, latent_num_blocks=2, next_tokens=3, fb_att_window_size=5,
             latent_att_window_size=9, document_borders=True, latent_summary=True, latent_shift=True)

def model_of(**changes):
    torch.manual_seed(0)
    model = Pico(PicoConfig.preset('nano', **SHAPE | changes)).double().eval()
    for p in model.parameters(): torch.nn.init.normal_(p, std=.3)                 # no weight is left at 0 or 1
    for name, b in model.named_buffers():
        if name.endswith('router.pairs'): b.copy_(torch.rand(256, 256) < .3)       # as if it had counted
    return model

def marked(text): return [BEGIN, *text, 255]

texts = st.lists(st.binary(max_size=40).map(lambda b: bytes(v % 128 for v in b)), min_size=1, max_size=5)

@pytest.mark.parametrize('positions', ['alibi', 'relative', 'rope', 'none'])
@pytest.mark.parametrize('carry, memory', [(True, True), (False, True), (True, False)])
@given(texts=texts)
@settings(deadline=None, derandomize=True, max_examples=10)
def test_each_document_as_if_alone(texts, positions, carry, memory):
    model = model_of(positions=positions, latent_carry=carry, latent_summary=memory, latent_shift=memory)
    with torch.no_grad():
        together = model(torch.tensor([[b for t in texts for b in marked(t)]])).logits
        alone = [model(torch.tensor([marked(t)])).logits for t in texts]
    torch.testing.assert_close(together, torch.cat(alone, 1))

@pytest.mark.parametrize('router', ROUTERS)
@given(rows=st.lists(texts, min_size=2, max_size=3), data=st.data())
@settings(deadline=None, derandomize=True, max_examples=10)
def test_pieces_of_ragged_rows(rows, data, router):
    "One pass, ragged pieces through the cache of the model, and through the decoder."
    model = model_of(router=router)
    streams = [[b for t in row for b in marked(t)] for row in rows]
    cache, decoder = model.new_cache(len(rows), max_rollback=2), Decoder(model, len(rows))
    said, read = [[] for _ in rows], [[] for _ in rows]
    done = [0]*len(rows)
    while any(d < len(s) for d, s in zip(done, streams, strict=True)):
        n = [min(data.draw(st.integers(0, 30)), len(s) - d) for s, d in zip(streams, done, strict=True)]
        if not max(n): n = [min(1, len(s) - d) for s, d in zip(streams, done, strict=True)]
        new = [s[d:d+k] for s, d, k in zip(streams, done, n, strict=True)]
        x = torch.tensor([v + [BEGIN]*(max(n) - len(v)) for v in new])            # padding that looks like a beginning
        with torch.no_grad(): out = model(x, cache=cache, lengths=torch.tensor(n)).logits[:,:,0]
        quick = iter(decoder.read(new)[1])
        for b, k in enumerate(n):
            said[b] += out[b,:k].tolist()
            read[b] += [next(quick) for _ in range(k)]
            done[b] += k
    for s, a, b in zip(streams, said, read, strict=True):
        with torch.no_grad(): whole = model(torch.tensor([s])).logits[0,:,0].numpy()
        np.testing.assert_allclose(np.array(a), whole, atol=1e-9)
        np.testing.assert_allclose(np.array(b), whole, atol=1e-9)

def test_scores_are_those_of_each_document():
    model, texts = model_of(), [b'It was a rainy night.', b'Nobody came.', b'A cat did.']
    costs = surprise(model, Corpus.from_bytes(texts)).bits
    alone = [surprise(model, Corpus.from_bytes([t])).bits for t in texts]
    begin = 0
    for own in alone:
        np.testing.assert_allclose(costs[begin+1:begin+len(own)], own[1:], atol=1e-9)
        begin += len(own)
    apart = bits_per_byte(model, Corpus.from_bytes(texts)).bpb
    joined = Pico(dataclasses.replace(model.config, document_borders=False)).double().eval()
    joined.load_state_dict(model.state_dict())
    assert abs(bits_per_byte(joined, Corpus.from_bytes(texts)).bpb - apart) > 1e-4

@pytest.mark.parametrize('quick', [True, False])
@pytest.mark.parametrize('seed', [0, 1])
def test_writing_on_through_documents(monkeypatch, seed, quick):
    "Drafts change nothing where the text goes on with a new document, and no document remembers the one before."
    if not quick: monkeypatch.setattr('pico.generate.quick', lambda model: False)
    model = model_of(heads='linear', heads_every=1)
    with torch.no_grad(): model.unembedding.bias.view(-1, 256)[:,[255, BEGIN]] += 3.
    how = dict(max_bytes=150, temperature=1., seed=seed, ignore_end=True)
    plain = generate(model, 'A', speculative=False, **how).bytes
    assert generate(model, 'A', speculative=True, **how).bytes == plain
    assert plain.count(BEGIN) > 2
    with torch.no_grad(): logits = model(torch.tensor([[BEGIN, *b'A', *plain]])).logits[0,:,0]
    last = len(plain) + 2 - plain[::-1].index(BEGIN) - 1
    with torch.no_grad(): alone = model(torch.tensor([[BEGIN, *b'A', *plain][last:]])).logits[0,:,0]
    torch.testing.assert_close(logits[last:], alone)

@pytest.mark.parametrize('quick', [True, False])
@pytest.mark.parametrize('heads', ['linear', 'chained'])
def test_a_batch_goes_on_through_documents(monkeypatch, quick, heads):
    if not quick: monkeypatch.setattr('pico.generate.quick', lambda model: False)
    model = model_of(heads=heads, heads_every=1)
    with torch.no_grad():
        first = model.unembedding.bias if heads == 'linear' else next(
            p for n, p in model.unembedding.named_parameters() if n.endswith('bias') and p.numel() >= 256)
        first.view(-1)[:first.numel()//256*256].view(-1, 256)[:,[255, BEGIN]] += 3.
    prompts, how = ['A', 'Bcd', ''], dict(max_bytes=100, temperature=1., ignore_end=True)
    plain = generate(model, prompts, seed=[0, 1, 2], speculative=False, **how)
    quickly = generate(model, prompts, seed=[0, 1, 2], speculative=True, **how)
    assert [g.bytes for g in quickly] == [g.bytes for g in plain] and all(BEGIN in g.bytes for g in plain)
    for s, p in enumerate(prompts): assert generate(model, p, seed=s, speculative=True, **how).bytes == plain[s].bytes

def test_training(tmp_path):
    "It is learned with: a gradient from one document never reaches the bytes of another."
    model = model_of().train()
    corpus = Corpus.from_bytes([b'one', b'two'] * 40)
    x, y = batch(corpus, 0, 2, 60, 3)
    states = []
    model.embedding.register_forward_hook(lambda *a: states.append(a[-1]) or a[-1].retain_grad())
    begins = (x == BEGIN).cumsum(1)
    only = y.masked_fill((begins != 3)[...,None], -100)
    model.unembedding.loss(model.states(x)[0], only)[0].backward()             # without the router's own loss
    touched = states[0].grad.abs().sum(-1) > 0
    assert touched[begins == 3].any()
    assert not touched[begins != 3].any()
    few = TrainConfig(max_steps=2, context_len=64, batch_size=2, validation_bytes=500)
    assert train(tmp_path, 'stories', PicoConfig.preset('nano', **SHAPE), few, limit=20_000).config.document_borders

def test_needs_a_byte_that_begins_documents():
    with pytest.raises(InputError, match="marks='tags'"): PicoConfig.preset('nano', **SHAPE, marks='tags')
