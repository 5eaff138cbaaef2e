"""The grid of chapter 22: optimizers compared. One line is one model, trained and scored.

    python nbs/experiments/optimizers.py --stage rates --data DIR    # learning rates of each, one seed, two corpora
    python nbs/experiments/optimizers.py --stage seeds --data DIR    # the best rates, three seeds
    python nbs/experiments/optimizers.py --stage long --steps 500    # SOAP against 800 steps of AdamW (chapter 21a)
    python nbs/experiments/optimizers.py --stage variants            # SOAP cut finer, whole, one-sided, other refreshes
    python nbs/experiments/optimizers.py --stage speed --public FILE # chapter 09: a step beside others'
    python nbs/experiments/optimizers.py --stage speed --heavyball   # the same beside heavyball, if installed

DIR holds war_and_peace.txt. FILE is the soap.py of the paper's authors; pytorch_optimizer is timed if it is installed.
What has a line is done: stop it when you like, start it again to go on.
"""
import importlib.util
import math
import statistics
import time
from importlib.metadata import version

import torch
from common import LENGTH, ROWS, average_weights, before_last, config, new_stories, parse, parser, source, stamp, text
from common import train_step

from pico.batches import batch
from pico.evaluate import bits_per_byte
from pico.model import Pico
from pico.soap import SOAP
from pico.train import backward

STEPS, EACH, WARMUP = 300, 50, 40
# tried on stories of seed 1, as the variants are and no other table; widened until the best was not at an end
RATES = {
    'adamw': [2e-3, 4e-3, 8e-3, 16e-3],
    'muon':  [4e-3, 8e-3, 16e-3, 32e-3],
    'soap':  [2e-3, 4e-3, 8e-3, 16e-3],
}
VARIANTS = {
    'soap': {}, 'soap-cut128': dict(block=128), 'soap-whole': dict(block=None),
    'soap-one-sided': dict(block=None, max_precond_dim=96),
    'soap-refresh1': dict(refresh=1), 'soap-refresh50': dict(refresh=50),
}

# --- the optimizers

class Muon:
    """torch.optim.Muon for the matrices and AdamW for the rest, at one learning rate. Its orthogonalisation runs in
    float32: a processor without bfloat16 arithmetic imitates that, many times slower."""
    def __init__(self, params, lr):
        matrices = [p for p in params if p.dim() == 2 and min(p.shape) > 1]
        rest = [p for p in params if p.dim() != 2 or min(p.shape) <= 1]
        self.parts = [torch.optim.Muon(matrices, lr=lr, weight_decay=.1, adjust_lr_fn='match_rms_adamw'),
                      torch.optim.AdamW(rest, lr=lr, betas=(.9, .95), weight_decay=0., fused=True)]
        self.param_groups = [g for o in self.parts for g in o.param_groups]

    def step(self):
        real, torch.Tensor.bfloat16 = torch.Tensor.bfloat16, lambda t: t
        try:
            for o in self.parts: o.step()
        finally: torch.Tensor.bfloat16 = real

def make(name, params, lr):
    "An optimizer that decays matrices only."
    if name == 'muon': return Muon(params, lr)
    groups = [dict(params=[p for p in params if p.dim() >= 2], weight_decay=.1),
              dict(params=[p for p in params if p.dim() < 2], weight_decay=0.)]
    if name == 'adamw': return torch.optim.AdamW(groups, lr=lr, betas=(.9, .95), fused=True)
    return SOAP(groups, lr=lr, **VARIANTS[name])

# --- a model

# stories to score on: those of 'long' are what chapter 21a scores its 800 steps of AdamW on
HELD_OUT = {'rates': (60, 1), 'seeds': (60, 3), 'long': (120, 2)}        # stage: how many, of which seed

def texts(name, stage, data, smoke=False):
    "Training text, text to score on, and where they come from."
    if name == 'stories':
        n, seed = HELD_OUT[stage]
        train = text(name, limit=50_000 if smoke else None)
        return train, new_stories(2 if smoke else n, seed), source(name, held_out=f'seed {seed}')
    train, held_out = text(name, 'train', data), text(name, 'validation', data)
    if stage == 'rates': train, held_out = before_last(train)
    return train, held_out, source(name, data)

def run(stage, corpus, name, lr, seed, data, steps=STEPS, smoke=False):
    """Train one model: warm-up, then a constant rate. Scored is a running average of its weights, so that every point
    of the curve is a finished model."""
    train, held_out, about = texts(corpus, stage, data, smoke)
    torch.manual_seed(seed)
    model, average = Pico(config()).train(), Pico(config()).eval()
    optimizer = make(name, list(model.parameters()), lr)
    losses, curve, gradient, stepped = [], [], [], []
    for step in range(steps):
        start = time.thread_time()
        x, y = batch(train, step, ROWS, LENGTH, model.config.next_tokens, seed)
        out, seconds = train_step(model, optimizer, x, y, lr * min(1, (step + 1) / WARMUP))
        gradient.append(time.thread_time() - start - seconds)
        stepped.append(seconds)
        average_weights(average, model, step)
        losses.append(round(out['per_head'][0] / math.log(2), 4))
        if not math.isfinite(losses[-1]): break
        if step + 1 == steps or (step + 1) % EACH == 0 and stage != 'rates':
            score = bits_per_byte(average, held_out, max_bytes=20_000 if stage == 'long' else 10_000)
            curve.append(dict(step=step + 1, bpb=score.bpb))
    return dict(stage=stage, corpus=corpus, optimizer=name, rate=lr, seed=seed, steps=steps, curve=curve,
                training=[round(statistics.mean(losses[i:i+10]), 4) for i in range(0, len(losses), 10)],
                bpb=curve[-1]['bpb'] if curve else math.inf,
                seconds=dict(gradient=statistics.median(gradient), step=statistics.mean(stepped[2:] or stepped))), about

# --- the grid

def best(results, corpus, name):
    "The rate of the lowest score among those tried."
    done = [r for r in results.rows() if (r['stage'], r.get('corpus'), r.get('optimizer')) == ('rates', corpus, name)]
    if not done: raise SystemExit(f'{name} on {corpus}: no rate was tried yet, run --stage rates first')
    return min(done, key=lambda r: r['bpb'])['rate']

def cells(a):
    "Every (corpus, optimizer, rate, seed) of a stage."
    corpora, names = ('stories', 'english'), a.only or list(RATES)
    if a.smoke: return [('stories', name, 8e-3, 100) for name in RATES]
    if a.stage == 'rates': return [(c, o, r, 100) for c in corpora for o in names for r in RATES[o]]
    if a.stage == 'long': return [('stories', 'soap', best(a.results, 'stories', 'soap'), 0)]
    if a.stage == 'variants':
        return [('stories', o, best(a.results, 'stories', 'soap'), 100) for o in VARIANTS if o != 'soap']
    return [(c, o, best(a.results, c, o), s) for s in range(a.seeds) for c in corpora for o in names]

def grid(a):
    stage = 'rates' if a.stage == 'variants' else a.stage
    for corpus, name, lr, seed in cells(a):
        line = f'{stage}-{corpus}-{name}-{lr:g}-{seed}'
        if (a.results.find(line) or dict(steps=0))['steps'] >= a.steps: continue
        result, about = run(stage, corpus, name, lr, seed, a.data, a.steps, a.smoke)
        a.results.add(dict(name=line) | result | stamp(a.command, about))
        print(f"{line}: {result['bpb']:.4f} bits per byte, {result['seconds']['gradient']*1e3:.0f} + "
              f"{result['seconds']['step']*1e3:.1f} ms a step", flush=True)

# --- the price of a step

def competitors(dim, public, heavy):
    "Functions that make an optimizer of parameters, by name."
    if heavy:                                 # compiled, as it comes; it refreshes every second step by default
        import heavyball
        heavyball.utils.compile_mode = 'default'
        def compiled(p): return heavyball.SOAP(p, lr=3e-3, precondition_frequency=10)
        return {'SOAP': SOAP, f'heavyball {version("heavyball")}, compiled': compiled}
    makers = {
        'AdamW, fused': lambda p: torch.optim.AdamW(p, fused=True),
        'Muon and AdamW, float32': lambda p: Muon(p, 1e-3),
        'SOAP': SOAP,
        'SOAP, refreshes together': lambda p: SOAP(p, spread=False),
        'SOAP, cut at 128': lambda p: SOAP(p, block=128),
        'SOAP, nothing cut, one-sided above 1024': lambda p: SOAP(p, block=None),
        'SOAP, one-sided': lambda p: SOAP(p, block=None, max_precond_dim=dim),
    }
    if public:
        spec = importlib.util.spec_from_file_location('public_soap', public)
        m = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(m)
        makers['public reference'] = m.SOAP
    if importlib.util.find_spec('pytorch_optimizer'):
        import pytorch_optimizer
        makers[f'pytorch_optimizer {version("pytorch_optimizer")}'] = pytorch_optimizer.SOAP
    return makers

def step_times(makers, shapes, begin, steps, device='cpu', clock=time.process_time):
    "Seconds of a step of each, in turn in one process, on random gradients; by default those of the processor."
    def normal(s, scale): return torch.randn(s, device=device).mul_(scale)
    params = {k: [normal(s, .02).requires_grad_() for s in shapes] for k in makers}
    optimizers = {k: make(params[k]) for k, make in makers.items()}
    took = {k: [] for k in makers}
    for _ in range(begin + steps):
        grads = [normal(s, .01) for s in shapes]
        for k, o in optimizers.items():
            for p, g in zip(params[k], grads, strict=True): p.grad = g.clone()
            start = clock()
            o.step()
            took[k].append(clock() - start)
    return {k: dict(mean=statistics.mean(v[begin:]), median=statistics.median(v[begin:]), worst=max(v[begin:]),
                    first=v[0]) for k, v in took.items()}

def gradient_time(model, rows=8, length=1024):
    "What a gradient costs beside it."
    corpus, took = text('stories'), []
    for step in range(4):
        start = time.process_time()
        backward(model, [batch(corpus, step, rows, length, model.config.next_tokens, 0)])
        took.append(time.process_time() - start)
    return dict(batch=f'{rows} x {length}', seconds=statistics.median(took[1:]))

def speed(preset, public, heavy=False, smoke=False):
    "Steps of all optimizers on the parameters of a preset."
    torch.manual_seed(0)
    model = Pico(config(preset)).train()
    # steps to get going (bases, memory, compilation), then two refresh periods
    begin, steps = 14 if heavy else 3, 20
    if smoke: begin, steps = 1, 1
    makers = competitors(model.config.dim, public, heavy)
    result = dict(stage='speed', preset=preset, parameters=model.num_parameters(),
                  steps=step_times(makers, [p.shape for p in model.parameters()], begin, steps))
    if preset == 'xs' and not heavy: result['gradient'] = gradient_time(model)
    return result

def speeds(a):
    for preset in ['nano'] if a.smoke else a.preset:
        result = speed(preset, a.public, a.heavyball, a.smoke)
        name = f'speed-{preset}-heavyball' if a.heavyball else f'speed-{preset}'
        a.results.add(dict(name=name) | result | stamp(a.command))
        for k, v in result['steps'].items():
            print(f"{preset} {k:42s} {v['mean']*1e3:8.1f} ms a step, median {v['median']*1e3:.1f}, worst "
                  f"{v['worst']*1e3:.1f}", flush=True)

def main(args=None):
    p = parser(__doc__)
    p.add_argument('--stage', choices=['rates', 'variants', 'seeds', 'long', 'speed'], required=True)
    p.add_argument('--data', help='folder that holds war_and_peace.txt')
    p.add_argument('--only', nargs='*', choices=RATES, help='only these optimizers')
    p.add_argument('--seeds', type=int, default=3)
    p.add_argument('--steps', type=int, default=STEPS, help='a model that was trained for fewer is trained again')
    p.add_argument('--public', help="the public reference's soap.py")
    p.add_argument('--heavyball', action='store_true', help='only SOAP and heavyball, which compiles for a minute')
    p.add_argument('--preset', nargs='*', default=['xs', '10m'])
    a = parse(p, __file__, args)
    if a.smoke: a.steps = 2
    elif a.stage in ('rates', 'seeds') and not a.data:
        p.error(f'--stage {a.stage} needs --data DIR, the folder that holds war_and_peace.txt')
    if a.stage == 'speed': speeds(a)
    else: grid(a)

if __name__ == '__main__': main()
