"Learned, rotary and no positions: cut anywhere, ragged, taken back, far into a text, and read in NumPy, as ALiBi."
import numpy as np
import pytest
import torch
from conftest import tiny_config
from pico.core import InputError
from pico.decode import Decoder
from pico.generate import generate
from pico.model import Pico, PicoConfig, trained_model

KINDS = 'alibi', 'relative', 'rope', 'none'

def make(positions, **changes):
    torch.manual_seed(0)
    small = dict(fb_att_window_size=5, latent_att_window_size=7, router='space', latent_carry=True, positions=positions)
    model = Pico(tiny_config(**small | changes)).double().eval()
    for p in model.parameters(): torch.nn.init.normal_(p, std=.3)              # a new model's blocks add nothing yet
    return model

def text(*shape, seed=0):
    letters = torch.tensor(list(b'abc de fg. '))
    return letters[torch.randint(len(letters), shape, generator=torch.Generator().manual_seed(seed))]

def logits(model, x, **kw):
    with torch.no_grad(): return model(x, **kw).logits

@pytest.mark.parametrize('positions', KINDS)
@pytest.mark.parametrize('pieces', [[1]*60, [7, 1, 30, 2, 20], [60]])
def test_cutting_does_not_matter(positions, pieces):
    model, x = make(positions), text(2, 60)
    cache = model.new_cache(2)
    out = torch.cat([logits(model, p, cache=cache) for p in x.split(pieces, 1)], 1)
    torch.testing.assert_close(out, logits(model, x))

@pytest.mark.parametrize('positions', KINDS)
def test_ragged_rows_and_what_was_taken_back(positions):
    model, x, lengths = make(positions), text(3, 24), torch.tensor([24, 9, 17])
    cache = model.new_cache(3, max_rollback=4)
    logits(model, x, cache=cache, lengths=lengths)
    logits(model, text(3, 4, seed=1), cache=cache)
    cache.rollback(torch.tensor([4, 4, 4]))
    more = text(3, 6, seed=2)
    out = logits(model, more, cache=cache)
    for b in range(3):
        alone = torch.cat([x[b, :lengths[b]], more[b]])[None]
        torch.testing.assert_close(out[b], logits(model, alone)[0, -6:])

@pytest.mark.parametrize('positions', KINDS)
def test_the_numpy_decoder_reads_the_same(positions):
    model, x = make(positions), text(2, 400).tolist()
    decoder, rng = Decoder(model, rows=2, max_rollback=3), np.random.default_rng(0)
    at, expect = [0, 0], logits(model, torch.tensor(x))[:,:,0].numpy()
    while max(at) < 390:
        step = rng.integers(0, 9, 2).tolist()
        step = [min(n, 390 - a) for n, a in zip(step, at, strict=True)]
        if not any(step): continue
        _, z, *_ = decoder.read([x[b][at[b]:at[b]+step[b]] for b in range(2)])
        i = 0
        for b in range(2):
            np.testing.assert_allclose(z[i:i+step[b]], expect[b, at[b]:at[b]+step[b]], atol=1e-9)
            i += step[b]
            at[b] += step[b]
        back = [int(rng.integers(0, min(3, n) + 1)) for n in step]
        decoder.forget(back)
        at = [a - n for a, n in zip(at, back, strict=True)]

@pytest.mark.parametrize('positions', KINDS)
def test_the_future_changes_nothing(positions):
    model, x = make(positions, router='rising'), text(1, 50)
    other = x.clone()
    other[0, 30:] = text(1, 20, seed=5)
    torch.testing.assert_close(logits(model, x)[:,:30], logits(model, other)[:,:30])

def test_they_differ_and_only_none_is_blind():
    x = text(1, 40)
    outs = {p: logits(make(p, router='all', fb_att_window_size=99, latent_att_window_size=99), x) for p in KINDS}
    for p in KINDS[1:]: assert (outs['alibi'] - outs[p]).abs().max() > 1e-3
    turned = torch.cat([x[:,:20].flip(1), x[:,20:]], 1)           # the same bytes in another order
    for p in KINDS:
        one = make(p, router='none', fb_att_window_size=99, latent_num_blocks=0, fb_num_blocks=1)
        moved = (one.fb_in(one.embedding(x)) - one.fb_in(one.embedding(turned)))[:,-1].abs().max()
        assert (moved < 1e-9) == (p == 'none')

@pytest.mark.parametrize('positions', ['relative', 'rope'])
def test_speculative_and_plain_writing_agree(positions):
    model = make(positions, next_tokens=4).float()
    texts = [generate(model, 'abc', max_bytes=60, temperature=0., speculative=s).bytes for s in (True, False)]
    assert texts[0] == texts[1]

def test_an_unknown_kind_is_refused():
    with pytest.raises(InputError, match="positions='sines'"): PicoConfig.preset('nano', positions='sines')

def test_learned_positions_begin_as_alibi_and_belong_to_the_narrow_windows():
    x = text(2, 60)
    begun = [Pico(tiny_config(positions=p)).double().eval() for p in ('relative', 'alibi')]
    begun[1].load_state_dict({k: v for k, v in begun[0].state_dict().items() if 'relative' not in k})
    assert torch.equal(*(logits(m, x) for m in begun))
    assert [n for n, _ in begun[0].named_parameters() if 'relative' in n] == ['fb_in.relative', 'fb_out.relative']
    assert Pico(tiny_config(positions='relative', fb_num_blocks=0)).fb_in.relative is None

def test_a_trained_table_keeps_its_window(tmp_path):
    Pico(tiny_config(positions='relative', fb_att_window_size=5)).save_pretrained(tmp_path)
    trained_model(tmp_path, tiny_config(positions='relative', fb_att_window_size=5, latent_att_window_size=9))
    with pytest.raises(InputError, match='fb_att_window_size=6'):
        trained_model(tmp_path, tiny_config(positions='relative', fb_att_window_size=6))
