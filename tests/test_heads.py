"Byte heads: the further ones learn from a subset of bytes, however a batch is cut; a chain never reaches the model."
import pytest
import torch
from conftest import tiny_config
from pico.data import Corpus
from pico.batches import batch
from pico.generate import generate
from pico.heads import sparse
from pico.model import Pico, PicoConfig
from pico.train import backward

KINDS = [('linear', 1), ('linear', 8), ('chained', 1), ('chained', 8)]
def make(heads, every, **kw):
    torch.manual_seed(0)
    return Pico(tiny_config(next_tokens=5, heads=heads, heads_every=every, **kw)).double().train()

@pytest.mark.parametrize('heads,every', KINDS)
def test_micro_steps_and_ranks_add_up(heads, every):
    "Eight rows at once, or two by two: the same gradients, though parts hold different numbers of targets."
    corpus = Corpus.from_bytes([b'kite ball ' * n for n in range(1, 60)])    # documents end inside rows
    grads, losses = [], []
    for parts in (1, 4):
        m = make(heads, every)
        x, y = batch(corpus, 0, 8, 70, 5)
        assert (y < 0).any()
        out = backward(m, [(x[i::parts], y[i::parts]) for i in range(parts)])
        grads.append([p.grad for p in m.parameters()])
        losses.append(out)
    for a, b in zip(*grads, strict=True): torch.testing.assert_close(a, b)
    torch.testing.assert_close(losses[0]['per_head'], losses[1]['per_head'])
    assert losses[0]['total'] == pytest.approx(losses[1]['total'])

def test_a_chain_leaves_the_model_alone():
    "With any number of chained heads the gradient of everything else is that of a single head."
    x = torch.randint(0, 256, (2, 40))
    y = torch.randint(0, 256, (2, 40, 5))
    one, five = make('chained', 4, router='space'), make('chained', 4, router='space')
    one = Pico(PicoConfig.from_dict(one.config.to_dict() | dict(next_tokens=1))).double().train()
    one.load_state_dict(five.state_dict(), strict=False)
    one.loss(x, y[...,:1]).total.backward()
    five.loss(x, y).total.backward()
    grads = dict(five.named_parameters())
    for name, p in one.named_parameters(): torch.testing.assert_close(p.grad, grads[name].grad, msg=name)
    assert grads['unembedding.back.weight'].grad.abs().sum() > 0

@pytest.mark.parametrize('T', [1, 3, 5, 8, 100])
@pytest.mark.parametrize('every', [1, 2, 7, 8])
def test_the_subset_is_a_matter_of_place(T, every):
    kept = sparse(torch.arange(T).expand(3, T), every)
    assert kept[0].tolist() == [t for t in range(T) if t % every == every//2] and (kept == kept[0]).all()

@pytest.mark.parametrize('heads,every', KINDS)
def test_saved_and_loaded(heads, every, tmp_path):
    m = make(heads, every).float().eval()
    m.save_pretrained(tmp_path)
    again = Pico.from_pretrained(tmp_path)
    assert again.config == m.config and generate(again, 'a', 30).bytes == generate(m, 'a', 30).bytes
    x = torch.randint(0, 256, (2, 9))
    torch.testing.assert_close(again(x).logits, m(x).logits)
    assert m(x).logits.shape == (2, 9, 5, 256)

def test_heads_learn(tmp_path):
    "On a text that counts, chained heads learn what follows what."
    corpus, m = Corpus.from_bytes([bytes(range(97, 123)) * 40]), make('chained', 2).float()
    opt = torch.optim.AdamW(m.parameters(), 1e-2)
    for step in range(60):
        backward(m, [batch(corpus, step, 4, 48, 5)])
        opt.step()
        opt.zero_grad()
    g = generate(m.eval(), 'abc', 40, temperature=0, lookup=False, speculative=True)
    assert g.bytes == (bytes(range(97, 123)) * 3)[3:43] and max(g.accepted) == 5
