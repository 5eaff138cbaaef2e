"""The grid of chapter 22: optimizers compared. One cell = one model trained and scored; its result is one small JSON file.

    python nbs/22_optimizers.py --stage rates --data DIR       # learning rates of each optimizer, one seed, two corpora; DIR holds war_and_peace.txt
    python nbs/22_optimizers.py --stage seeds --data DIR       # the best rates, three seeds
    python nbs/22_optimizers.py --stage long --steps 500       # SOAP against the 800 steps of AdamW of chapter 21
    python nbs/22_optimizers.py --stage variants               # SOAP cut finer, whole, one-sided, refreshed more and less often
    python nbs/22_optimizers.py --stage speed --public FILE    # chapter 09: a step beside others'; FILE is the soap.py of the paper's authors; pytorch_optimizer if installed
    python nbs/22_optimizers.py --stage speed --heavyball      # the same beside heavyball, if installed

Cells that are done are skipped: stop it when you like, start it again to go on.
"""
import argparse, hashlib, importlib.util, json, math, platform, statistics, subprocess, sys, time
from datetime import date
from importlib.metadata import version
from pathlib import Path
import torch
from pico.data import Corpus
from pico.batches import batch
from pico.sources import load_corpus
from pico.evaluate import bits_per_byte
from pico.model import Pico, PicoConfig
from pico.soap import SOAP
from pico.stories import story
from pico.train import backward

RESULTS = Path(__file__).parent/'results'/'optimizers'
STEPS, EACH, ROWS, LENGTH, WARMUP = 300, 50, 4, 512, 40
# tried on stories of seed 1, which no table of the chapter is scored on; widened until the best was not at an end
RATES = {
    'adamw': [2e-3, 4e-3, 8e-3, 16e-3],
    'muon':  [4e-3, 8e-3, 16e-3, 32e-3],
    'soap':  [2e-3, 4e-3, 8e-3, 16e-3],
}
VARIANTS = {'soap': {}, 'soap-cut128': dict(block=128), 'soap-whole': dict(block=None),
            'soap-one-sided': dict(block=None, max_precond_dim=96), 'soap-refresh1': dict(refresh=1),
            'soap-refresh50': dict(refresh=50)}

class Muon:
    "torch.optim.Muon for the matrices and AdamW for the rest, at one learning rate. Its orthogonalisation runs in float32: a processor without bfloat16 arithmetic imitates that, many times slower."
    def __init__(self, params, lr):
        matrix = lambda p: p.dim() == 2 and min(p.shape) > 1
        self.parts = [torch.optim.Muon([p for p in params if matrix(p)], lr=lr, weight_decay=.1,
                                       adjust_lr_fn='match_rms_adamw'),
                      torch.optim.AdamW([p for p in params if not matrix(p)], lr=lr, betas=(.9, .95), weight_decay=0.,
                                        fused=True)]
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

def corpora(name, stage, data):
    "Training and scoring text, and where it comes from."
    if name == 'stories':
        # the text that chapter 21 scores its 800 steps of AdamW on
        seed, n = {'rates': (1, 60), 'seeds': (3, 60), 'long': (2, 120)}[stage]
        return load_corpus('stories', 'train'), Corpus.from_bytes([story(i, seed=seed).text.encode()
                                                                   for i in range(n)]), dict(source=f'the built-in '
                                                                                                    f'stories; held '
                                                                                                    f'out: seed {seed}',
                                                                                                    sha256=None)
    file = Path(data)/'war_and_peace.txt'
    train, held_out = load_corpus(str(file), 'train'), load_corpus(str(file), 'validation')
    # the tenth before the held-out one, which nothing is tuned on
    if stage == 'rates':
        values, _ = train.read(0, train.size)
        end = train.size * 8 // 9
        train, held_out = (Corpus.from_bytes([bytes(part.astype('uint8'))]) for part in (values[:end], values[end:]))
    return train, held_out, dict(source='War and Peace, English, public domain',
                                 sha256=hashlib.sha256(file.read_bytes()).hexdigest())

# written out here, so that these results keep their meaning whatever the presets of the library become
DESIGN = dict(router='topk', latent_carry='no', heads='linear', heads_every=1)

def config(preset='nano'):
    "The model that is measured: a shape of the library, the design of its first presets."
    return PicoConfig.preset(preset, **DESIGN)

def run(stage, corpus, name, lr, seed, data, steps=STEPS):
    "Train one model: warm-up, then a constant rate; score a running average of its weights, so that every point of the curve is a finished model."
    train, held_out, source = corpora(corpus, stage, data)
    shape = config('nano')
    torch.manual_seed(seed)
    model, average = Pico(shape).train(), Pico(shape).eval()
    params = list(model.parameters())
    optimizer = make(name, params, lr)
    own, mean = ([t for t in m.state_dict().values()] for m in (model, average))
    losses, curve, learned, stepped = [], [], [], []
    for step in range(steps):
        for group in optimizer.param_groups: group['lr'] = lr * min(1, (step + 1) / WARMUP)
        start = time.process_time()
        out = backward(model, [batch(train, step, ROWS, LENGTH, shape.next_tokens, seed)])
        torch.nn.utils.clip_grad_norm_(params, 1.)
        middle = time.process_time()
        optimizer.step()
        stepped.append(time.process_time() - middle)
        learned.append(middle - start)
        for p in params: p.grad = None
        model.router_state_step()
        for m, t in zip(mean, own): m.lerp_(t, 9 / (step + 9))    # the last tenth or so of all steps; at step 0 a copy
        losses.append(round(out['per_head'][0] / math.log(2), 4))
        if not math.isfinite(losses[-1]): break
        if (step + 1) % EACH == 0 and (stage != 'rates' or step + 1 == steps):
            curve.append(dict(step=step + 1, bpb=bits_per_byte(average, held_out,
                                                               max_bytes=20_000 if stage == 'long' else 10_000).bpb))
    return dict(stage=stage, corpus=corpus, optimizer=name, rate=lr, seed=seed, steps=steps, curve=curve,
                training=[round(statistics.mean(losses[i:i+10]), 4) for i in range(0, len(losses), 10)],
                bpb=curve[-1]['bpb'] if curve else math.inf,
                seconds=dict(gradient=statistics.median(learned), step=statistics.mean(stepped[2:])), data=source)

def best(corpus, name):
    "The rate of the lowest score among those tried."
    done = [d for f in RESULTS.glob(f'rates-{corpus}-{name}-*.json')
            if (d := json.loads(f.read_text()))['optimizer'] == name]
    return min(done, key=lambda d: d['bpb'])['rate']

def about(command):
    commit = subprocess.run(['git', 'rev-parse', '--short', 'HEAD'], capture_output=True, text=True,
                            cwd=RESULTS.parent).stdout.strip()
    return dict(command=command, commit=commit, date=date.today().isoformat(),
                device=f'{platform.machine()} processor, 1 thread', torch=torch.__version__)

def save(file, result):
    RESULTS.mkdir(parents=True, exist_ok=True)
    file.with_suffix('.tmp').write_text(json.dumps(result, indent=None if 'training' in result else 1) + '\n')
    file.with_suffix('.tmp').rename(file)

def cells(a):
    "Every (corpus, optimizer, rate, seed) of a stage."
    if a.stage == 'rates':
        return [(c, o, r, 100) for c in ('stories', 'english') for o in (a.only or RATES) for r in RATES[o]]
    if a.stage == 'long': return [('stories', 'soap', best('stories', 'soap'), 0)]
    if a.stage == 'variants': return [('stories', o, best('stories', 'soap'), 100) for o in VARIANTS if o != 'soap']
    return [(c, o, best(c, o), s) for s in range(a.seeds) for c in ('stories', 'english') for o in (a.only or RATES)]

def speed(preset, public, heavy=False):
    "Processor time of an optimizer step, all optimizers in turn in one process, on the parameters of a preset and random gradients."
    torch.manual_seed(0)
    model = Pico(config(preset)).train()
    shapes = [p.shape for p in model.parameters()]
    makers = {'AdamW, fused': lambda p: torch.optim.AdamW(p, fused=True),
              'Muon and AdamW, float32': lambda p: Muon(p, 1e-3), 'SOAP': SOAP,
              'SOAP, refreshes together': lambda p: SOAP(p, spread=False),
              'SOAP, cut at 128': lambda p: SOAP(p, block=128),
              'SOAP, nothing cut, one-sided above 1024': lambda p: SOAP(p, block=None),
              'SOAP, one-sided': lambda p: SOAP(p, block=None, max_precond_dim=model.config.dim)}
    if public:
        spec = importlib.util.spec_from_file_location('public_soap', public)
        m = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(m)
        makers['public reference'] = m.SOAP
    if importlib.util.find_spec('pytorch_optimizer'):
        import pytorch_optimizer
        makers[f'pytorch_optimizer {version("pytorch_optimizer")}'] = pytorch_optimizer.SOAP
    # compiled, as it comes; it refreshes every second step by default
    if heavy:
        import heavyball
        heavyball.utils.compile_mode = 'default'
        makers = {
            'SOAP': SOAP, f'heavyball {version("heavyball")}, compiled': lambda p: heavyball.SOAP(
                p, lr=3e-3, precondition_frequency=10)}
    # steps to get going (bases, memory, compilation), then two refresh periods
    begin = 14 if heavy else 3
    params = {k: [torch.randn(s).mul_(.02).requires_grad_() for s in shapes] for k in makers}
    optimizers, took = {k: make(params[k]) for k, make in makers.items()}, {k: [] for k in makers}
    for t in range(begin + 20):
        grads = [torch.randn(s).mul_(.01) for s in shapes]
        for k, o in optimizers.items():
            for p, g in zip(params[k], grads): p.grad = g.clone()
            start = time.process_time()
            o.step()
            took[k].append(time.process_time() - start)
    steps = {k: dict(mean=statistics.mean(v[begin:]), median=statistics.median(v[begin:]), worst=max(v[begin:]),
                     first=v[0]) for k,v in took.items()}
    result = dict(stage='speed', preset=preset, parameters=model.num_parameters(), steps=steps)
    if preset == 'xs' and not heavy:
        corpus, took = load_corpus('stories'), []
        for step in range(4):
            start = time.process_time()
            backward(model, [batch(corpus, step, 8, 1024, model.config.next_tokens, 0)])
            took.append(time.process_time() - start)
        result['gradient'] = dict(batch='8 x 1024', seconds=statistics.median(took[1:]))
    return result

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--stage', choices=['rates', 'variants', 'seeds', 'long', 'speed'], required=True)
    p.add_argument('--data', help='folder that holds war_and_peace.txt')
    p.add_argument('--only', nargs='*', choices=RATES, help='only these optimizers')
    p.add_argument('--seeds', type=int, default=3)
    p.add_argument('--steps', type=int, default=STEPS, help='a cell that was trained for fewer is trained again')
    p.add_argument('--public', help="the public reference's soap.py")
    p.add_argument('--heavyball', action='store_true', help='only SOAP and heavyball, which compiles for a minute')
    p.add_argument('--preset', nargs='*', default=['xs', '10m'])
    a = p.parse_args()
    if a.stage in ('rates', 'seeds') and not a.data:
        p.error(f'--stage {a.stage} needs --data DIR, the folder that holds war_and_peace.txt')
    torch.set_num_threads(1)                                      # seconds are processor time of one thread
    if a.stage == 'speed':
        for preset in a.preset:
            result = speed(preset, a.public, a.heavyball)
            save(RESULTS/f'speed-{preset}{"-heavyball" if a.heavyball else ""}.json',
                 result | about('python nbs/22_optimizers.py --stage speed ' + ('--heavyball' if a.heavyball
                                                                                else '--public FILE')))
            for k,v in result['steps'].items():
                print(f"{preset} {k:42s} {v['mean']*1e3:8.1f} ms a step, median {v['median']*1e3:.1f}, worst "
                      f"{v['worst']*1e3:.1f}", flush=True)
        return
    for corpus, name, lr, seed in cells(a):
        file = RESULTS/f'{"rates" if a.stage == "variants" else a.stage}-{corpus}-{name}-{lr:g}-{seed}.json'
        if file.exists() and json.loads(file.read_text())['steps'] >= a.steps: continue
        result = run('rates' if a.stage == 'variants' else a.stage, corpus, name, lr, seed, a.data, a.steps)
        save(file, result | about(f'python nbs/22_optimizers.py --stage {a.stage}' + (' --data DIR' if a.data else '')
                                  + (f' --steps {a.steps}' if a.steps != STEPS else '')))
        print(f"{file.stem}: {result['bpb']:.4f} bits per byte, {result['seconds']['gradient']*1e3:.0f} + "
              f"{result['seconds']['step']*1e3:.1f} ms a step", flush=True)

if __name__ == '__main__': main()
