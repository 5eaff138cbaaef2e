"Routers across chapters: budgets, state, cutting a batch, causality in training."
import dataclasses
import pytest
import torch
from pico.batches import batch
from pico.sources import load_corpus
from pico.evaluate import bits_per_byte
from pico.model import Pico, PicoConfig
from pico.router import ROUTERS
from pico.capacity import RunningQuantile
from pico.costs import flops_per_byte
from pico.train import TrainConfig, backward, make_optimizer, lr_factor

TINY = dict(dim=24, next_tokens=2, att_q_heads=3, att_kv_heads=1, fb_num_blocks=1, fb_att_window_size=8,
            latent_num_blocks=1, latent_att_window_size=32)
def tiny(router, capacity=.25, **kw):
    torch.manual_seed(0)
    return Pico(PicoConfig.from_dict(TINY | dict(router=router, latent_capacity_factor=capacity) | kw))

def trained(model, steps, rows=4, T=256, micro=1):
    model.train()
    opt = make_optimizer(model, TrainConfig(learning_rate=5e-3))
    corpus = load_corpus('stories')
    for i in range(steps):
        # as every run does: at the end the scores stand still
        for g in opt.param_groups: g['lr'] = 5e-3 * lr_factor(i, i/steps, 10, 'cosine')
        bs = [batch(corpus, i, rows, T, model.config.next_tokens)]
        if micro > 1: bs = list(zip(*(t.chunk(micro) for t in bs[0]), strict=True))
        backward(model, bs)
        opt.step()
        opt.zero_grad()
        model.router_state_step()
    return model

@pytest.mark.parametrize('capacity', [.125, .25, .5])
@pytest.mark.parametrize('router', ['threshold', 'predictor', 'stride', 'random'])
def test_budget_is_kept_on_held_out_text(router, capacity):
    model = trained(tiny(router, capacity), 100 if router in ('threshold', 'predictor') else 0, rows=8)
    used = bits_per_byte(model, load_corpus('stories', 'validation'), max_bytes=20_000).routed_fraction
    assert abs(used / capacity - 1) < .1

@pytest.mark.parametrize('router', ['threshold', 'predictor'])
def test_state_does_not_depend_on_how_a_step_is_cut(router):
    a, b = (trained(tiny(router).double(), 5, rows=8, T=64, micro=m) for m in (1, 4))
    for (k, v), w in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
        torch.testing.assert_close(v, w, rtol=1e-9, atol=1e-12, msg=k)

def test_threshold_is_causal_in_training_too():
    model = trained(tiny('threshold').double(), 3)
    x = torch.randint(97, 123, (1, 64))
    y = x.clone()
    y[0, 40:] = 65
    one, two = model(x), model(y)
    torch.testing.assert_close(one.logits[:, :40], two.logits[:, :40])
    assert torch.equal(one.routed[:, :40], two.routed[:, :40])
    # the comparison can fail: the training rule of topk looks ahead
    topk = tiny('topk').double().train()
    def other_end(): return torch.cat([x[:, :40], torch.randint(0, 256, (1, 24))], 1)
    assert any(not torch.equal(topk(x).routed[:, :40], topk(other_end()).routed[:, :40]) for _ in range(20))

def test_the_ceiling_bounds_a_row_in_training_only():
    model = tiny('threshold').train()
    model.latent.router.quantile.value.fill_(-1e3)     # everything passes
    x = torch.randint(0, 256, (2, 64))
    assert (model(x).routed.sum(1) == 1 + 2*16).all() and model(x).routed[:, :33].all()
    assert model.eval()(x).routed.all() and model(x, routing='train').routed.all()

def test_state_is_saved_and_frozen(tmp_path):
    model = trained(tiny('threshold'), 5)
    value = model.latent.router.quantile.value
    assert value != 0
    model.save_pretrained(tmp_path)
    again = Pico.from_pretrained(tmp_path)
    quantile = again.latent.router.quantile
    assert torch.equal(quantile.value, value) and quantile.value.dtype == torch.float64
    again(torch.randint(0, 256, (1, 64)), routing='train')
    again.router_state_step()
    assert torch.equal(quantile.value, value)

def test_a_quantile_ignores_an_empty_step_and_survives_extremes():
    q = RunningQuantile(.25)
    q.step()
    assert q.value == 0
    q.count(torch.tensor([1e30, -1e30, 0., 1.]))
    q.step()
    assert torch.isfinite(q.value)

def test_flops_count_the_router_and_what_was_routed():
    c = PicoConfig.from_dict(TINY | dict(router='space', latent_capacity_factor=.25))
    n, a = (dataclasses.replace(c, router=r) for r in ('none', 'all'))
    assert flops_per_byte(c, 0.) == flops_per_byte(n) and flops_per_byte(c, 1.) == flops_per_byte(a)
    assert flops_per_byte(c, .5) == (flops_per_byte(n) + flops_per_byte(a)) / 2
    topk, stride = (dataclasses.replace(c, router=r) for r in ('topk', 'stride'))
    assert flops_per_byte(topk) - flops_per_byte(stride) == 6 * 24
    assert flops_per_byte(dataclasses.replace(c, latent_carry='yes')) - flops_per_byte(c) == 2 * 6 * 24

# as they were counted when a router had to be built for it (commit 58b30f7)
FLOPS = dict(all=147168, none=118080, space=125352, stride=125352, random=125352, topk=125496, threshold=125496,
             predictor=127374, tuned=125502, whitespace=125352, words=125502, rising=125502)

@pytest.mark.parametrize('router', FLOPS)
def test_counting_operations_draws_nothing_and_counts_what_it_did(router):
    state = torch.get_rng_state()
    config = PicoConfig.from_dict(TINY | dict(router=router, latent_capacity_factor=.25))
    assert flops_per_byte(config) == FLOPS[router]
    assert torch.equal(torch.get_rng_state(), state)
    numbers = sum(p.numel() for p in tiny(router).latent.router.parameters())
    assert ROUTERS[router].multiplications(24) == numbers

def test_old_names_and_places_are_served():
    import pico.depth
    import pico.router
    for name in ('pack', 'unpack', 'carried', 'keep_last', 'DepthCache', 'MixtureOfDepths'):
        assert getattr(pico.router, name) is getattr(pico.depth, name)
    for old, new in pico.router.RENAMED.items(): assert getattr(pico.router, old) is getattr(pico.router, new)
    with pytest.raises(AttributeError): _ = pico.router.secret

@pytest.mark.parametrize('router, rule', [('tuned', 'space'), ('words', 'whitespace')])
def test_tuned_is_its_rule_at_first_and_learns_to_leave_it(router, rule):
    m, rule = tiny(router, .2).train(), tiny(rule)
    x = torch.randint(0, 256, (2, 64)) if router == 'tuned' else torch.randint(8, 12, (2, 64))
    assert rule(x).routed.float().mean(1).min() > .2                     # the rule is above its budget here
    assert torch.equal(m(x, routing='causal').routed, rule(x).routed)
    assert m(x).routed.float().mean(1).max() <= .2
    text = torch.tensor([list((b'Mia likes every yellow kite. ' * 9)[:256])] * 2)
    # below its budget one rule serves both
    assert torch.equal(m(text).routed, m(text, routing='causal').routed)
    # others than the rule's: the auxiliary loss moves it there
    forced = torch.rand(2, 256, generator=torch.Generator().manual_seed(0)) < .1
    h = torch.randn(2, 256, 24) + torch.where(forced, 3., -3.)[...,None]
    r, args = m.latent.router, (text, torch.full((2, 1), -1), None)
    optimizer = torch.optim.Adam(r.parameters(), .05)
    for _ in range(300):
        route = r(h, *args)
        route.chosen = forced
        optimizer.zero_grad()
        r.auxiliary(route).backward()
        optimizer.step()
    assert (r(h, *args).chosen == forced).float().mean() > .95
    assert r(h, *args, train=True).chosen.float().mean() <= .2
