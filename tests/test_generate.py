"Writing: speculation changes nothing but the number of passes, batches change nothing at all, and endings are found."
import itertools, math
import numpy as np, pytest, torch
from hypothesis import given, settings, strategies as st
from pico.data import Corpus, InputError, MARKS, batch, to_text
from pico.generate import Writing, accept, byte_probabilities, characters, generate, pick, rounds, stream, verify
from pico.model import Pico, PicoConfig

fast = settings(deadline=None, derandomize=True, max_examples=25)

@pytest.fixture(scope='module')
def trained():
    "A tiny model after some seconds on sentences: sure in places, unsure in others; in float64."
    torch.manual_seed(0); r = np.random.default_rng(0)
    words = ['kite', 'ball', 'café', 'boat', 'red', 'blue', 'Mia', 'Zoë', 'likes', 'sees', 'the', 'a']
    corpus = Corpus.from_bytes([' '.join(r.choice(words, 12)) + '.' for _ in range(300)])
    m = Pico(PicoConfig.preset('nano', dim=24, latent_num_blocks=1, next_tokens=3)).train()
    opt = torch.optim.AdamW(m.parameters(), 1e-2)
    for step in range(80):
        loss = m.loss(*batch(corpus, step, 8, 64, 3)); opt.zero_grad(); loss.total.backward(); opt.step()
    return m.double().eval()

def like(model, **changes):
    "The same weights in a model with another router, or other marks."
    m = Pico(PicoConfig.from_dict(model.config.to_dict() | changes)).double().eval()
    m.load_state_dict(model.state_dict(), strict=False)
    return m

@pytest.mark.parametrize('router', ['topk', 'space', 'all', 'none'])
@pytest.mark.parametrize('draft', ['likely', 'drawn'])
def test_greedy_is_plain_greedy(trained, router, draft):
    "Over 2,000 bytes in all, bytes and router decisions are those of the plain loop."
    m = like(trained, router=router, marks='none')
    prompts = ['Mia', 'the kite likes', 'ë', 'a b c d', 'Zoë sees the blue']
    plain, quick = (generate(m, prompts, 60, temperature=0, speculative=s, draft=draft) for s in (False, True))
    for a, b in zip(plain, quick):
        assert (a.bytes, a.routed) == (b.bytes, b.routed) and len(a.bytes) == 60
        assert a.forwards == 61 and sum(a.accepted) == sum(b.accepted) == 60
        if a.router_weights[0] is not None: np.testing.assert_allclose(a.router_weights, b.router_weights, rtol=1e-5)
    assert sum(b.forwards for b in quick) < sum(a.forwards for a in plain)

@pytest.mark.parametrize('speculative', [False, True])
@pytest.mark.parametrize('latent', [False, True])
def test_router_decisions_are_those_of_one_pass(trained, speculative, latent):
    "The flag of each byte is what the model decides when it reads the finished text."
    for seed in range(4):
        g = generate(trained, 'Mia likes', 80, temperature=1.3, seed=seed, speculative=speculative, latent=latent)
        whole = b'\xfe' + g.prompt + g.bytes
        out = trained(torch.tensor([list(whole)]), latent=latent); n = len(g.bytes)
        assert g.routed == out.routed[0,len(whole)-n:].tolist()
        if latent: np.testing.assert_allclose(g.router_weights, out.router_weights[0,len(whole)-n:].detach().numpy(), atol=1e-6)
        else: assert not any(g.routed)

@fast
@given(st.lists(st.text('aeiou é.', max_size=70), min_size=1, max_size=4), st.integers(0, 40), st.booleans(), st.sampled_from(['likely', 'drawn']), st.sampled_from([0, .7, 1.5]), st.sampled_from([None, .9]))
def test_batches_streams_and_prefixes(trained, prompts, n, speculative, draft, temperature, top_p):
    "A row of a batch, a stream and a longer text all agree."
    kw = dict(temperature=temperature, top_p=top_p, speculative=speculative, draft=draft)
    seeds = list(range(len(prompts)))
    together = generate(trained, prompts, n, seed=seeds, **kw)
    for g, p, s in zip(together, prompts, seeds):
        alone = generate(trained, p, n, seed=s, **kw)
        assert (g.bytes, g.routed, g.forwards, g.accepted, g.prompt) == (alone.bytes, alone.routed, alone.forwards, alone.accepted, p.encode())
        assert generate(trained, p.encode(), n+7, seed=s, **kw).bytes[:n] == g.bytes
        assert [x.byte for x in stream(trained, p, n, seed=s, **kw)] == list(g.bytes)
    assert [bytes(x.byte for x in steps) for steps in [[x for x in stream(trained, prompts, n, seed=seeds, **kw) if x.row == b] for b in seeds]] == [g.bytes for g in together]

def test_long_prompt(trained):
    "A prompt longer than what is read at once, beside a short one."
    long = 'the kite likes a boat. ' * 250
    for g, p in zip(generate(trained, [long, 'a', ''], 20), [long, 'a', '']): assert g.bytes == generate(trained, p, 20).bytes
    naive = torch.tensor([list(b'\xfe' + long.encode())])
    with torch.inference_mode(): assert generate(trained, long, 1, temperature=0).bytes[0] == trained(naive, heads=1).logits[0,-1,0].argmax()
