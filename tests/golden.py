"""Does a change of the code's looks change what it does? Two checkouts do the same work and are compared bit for bit.

    git worktree add /tmp/before COMMIT
    python tests/golden.py /tmp/before .              # weights, written bytes, bits per byte: about two minutes
    python tests/golden.py /tmp/before . --tree       # only the syntax trees, which a change of layout leaves alone
    python tests/golden.py /tmp/before . --time       # ten turns each of training and writing; the median ratio

Nothing is stored, since processors differ in the last bit. Each checkout has a process of its own, with one thread.
"""
import argparse
import ast
import hashlib
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

# shapes and designs are written out: presets may change, this record may not
SHAPES = {
    'nano': dict(dim=96, next_tokens=4, att_q_heads=6, att_kv_heads=2, fb_num_blocks=1, fb_att_window_size=16,
                 latent_capacity_factor=.25, latent_num_blocks=3, latent_att_window_size=256),
    'xs':   dict(dim=128, next_tokens=8, att_q_heads=9, att_kv_heads=3, fb_num_blocks=2, fb_att_window_size=16,
                 latent_capacity_factor=.25, latent_num_blocks=12, latent_att_window_size=512),
    '10m':  dict(dim=372, next_tokens=8, att_q_heads=9, att_kv_heads=3, fb_num_blocks=2, fb_att_window_size=32,
                 latent_capacity_factor=.25, latent_num_blocks=8, latent_att_window_size=512),
}
DESIGN = dict(router='space', latent_carry='yes', heads='chained', heads_every=16)
PLAIN = dict(router='topk', latent_carry='no', heads='linear', heads_every=1)
ROUTERS = 'all', 'none', 'space', 'stride', 'random', 'topk', 'threshold', 'predictor', 'tuned', 'whitespace', 'words'
# today's `nano`
NOW = SHAPES['nano'] | DESIGN | dict(fb_num_blocks=2, latent_num_blocks=2, latent_capacity_factor=3/16, router='rising',
                                     positions='relative', latent_summary=True, latent_shift=True, heads_every=32)
STEPS, ROWS, LENGTH = 20, 2, 256

def cases():
    "Name, configuration and optimizer of everything that is compared."
    for shape, optimizer in ((s, o) for s in SHAPES for o in ('adamw', 'soap')):
        yield f'{shape} {optimizer}', SHAPES[shape] | DESIGN, optimizer
    for router in ROUTERS: yield f'nano, router {router}', SHAPES['nano'] | PLAIN | dict(router=router), 'adamw'
    yield 'nano, words with carrying', SHAPES['nano'] | DESIGN | dict(router='words'), 'soap'
    yield 'nano now', NOW, 'soap'
    yield 'nano now, documents apart', NOW | dict(document_borders=True), 'soap'

def trained(config, optimizer, steps=STEPS):
    "A model after some steps, as `pico.train` takes them."
    import torch
    from pico.data import batch, load_corpus
    from pico.model import Pico, PicoConfig
    from pico.train import TrainConfig, backward, make_optimizer
    torch.manual_seed(0)
    model = Pico(PicoConfig.from_dict(config)).train()
    opt = make_optimizer(model, TrainConfig(optimizer=optimizer, learning_rate=4e-3))
    corpus = load_corpus('stories', limit=300_000)
    model.latent.router.begin(corpus)
    for step in range(steps):
        backward(model, [batch(corpus, step, ROWS, LENGTH, model.config.next_tokens)])
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.)
        opt.step()
        opt.zero_grad()
        model.router_state_step()
    return model.eval()

def record():
    "What this checkout does: a digest for each case."
    from pico.data import load_corpus
    from pico.evaluate import bits_per_byte
    from pico.generate import generate
    held = load_corpus('stories', 'validation', limit=20_000)
    for name, config, optimizer in cases():
        model = trained(config, optimizer)
        tensors = [v.numpy().tobytes() for _, v in sorted(model.state_dict().items())]
        weights = hashlib.sha256(b''.join(tensors)).hexdigest()
        texts = [generate(model, 'Once', max_bytes=60, temperature=t, seed=1, speculative=s).bytes.hex()
                 for t in (0, .8) for s in (False, True)]
        print(json.dumps([name, weights, texts, bits_per_byte(model, held, 2000).bpb]), flush=True)

def once():
    "Seconds of the processor for training and for writing, once; other work on the machine does not count."
    from pico.generate import generate
    model = trained(SHAPES['nano'] | DESIGN, 'soap', 5)           # what the first steps and bytes cost is no part of it
    generate(model, 'Once', max_bytes=100, speculative=False, ignore_end=True)
    start = time.process_time()
    model = trained(SHAPES['nano'] | DESIGN, 'soap', 60)
    middle = time.process_time()
    generate(model, 'Once', max_bytes=3000, speculative=False, ignore_end=True)
    print(json.dumps([middle - start, time.process_time() - middle]))

def start(checkout, what):
    "This script in a process whose package is that of `checkout`."
    env = os.environ | dict(PYTHONPATH=str(Path(checkout).resolve()), OMP_NUM_THREADS='1')
    return subprocess.Popen([sys.executable, __file__, '--do', what], env=env, cwd=checkout, stdout=subprocess.PIPE,
                            text=True)

def compare(old, new):
    "Both at once, a core each; exit status 1 if anything differs."
    runs = [start(c, 'record') for c in (old, new)]
    before, after = ([json.loads(l) for l in r.communicate()[0].splitlines()] for r in runs)
    if any(r.returncode for r in runs) or len(before) != len(after): sys.exit('a checkout failed')
    differences = 0
    for (name, *old_parts), (_, *new_parts) in zip(before, after, strict=True):
        for part, x, y in zip(('weights', 'text', 'score'), old_parts, new_parts, strict=True):
            if x == y: continue
            differences += 1
            print(f'{name}: {part} differ')
    print(f'{len(before)} cases, {differences} differences')
    sys.exit(bool(differences))

def trees(checkout):
    "Syntax tree of every code cell and of every script and test; cells that are no Python stand as they are."
    def tree(text):
        try: return ast.dump(ast.parse(text))
        except SyntaxError: return text
    found = {}
    files = [f for folder in ('nbs', 'tests') for f in Path(checkout, folder).rglob('*')]
    for f in sorted(f for f in files if f.suffix in ('.py', '.ipynb')):
        name, text = str(f.relative_to(checkout)), f.read_text(encoding='utf-8')
        if f.suffix == '.py': found[name] = [tree(text)]
        else: found[name] = [tree(''.join(c['source'])) for c in json.loads(text)['cells'] if c['cell_type'] == 'code']
    return found

def compare_trees(old, new):
    "Exit status 1 if the code of a file differs in more than its layout."
    before, after = trees(old), trees(new)
    differ = sorted(f for f in before.keys() | after.keys() if before.get(f) != after.get(f))
    for f in differ: print(f'{f}: the syntax tree differs')
    print(f'{len(after)} files, {len(differ)} differences')
    sys.exit(bool(differ))

def race(old, new, turns=10):
    "Interleaved turns; the median of the ratios new/old."
    ratios = []
    for turn in range(turns):
        seconds = [json.loads(start(c, 'once').communicate()[0]) for c in (old, new)]
        ratios.append([n/o for o, n in zip(*seconds, strict=True)])
        print(f'turn {turn+1}: training {ratios[-1][0]:.3f}, writing {ratios[-1][1]:.3f}', flush=True)
    training, writing = (statistics.median(r) for r in zip(*ratios, strict=True))
    print(f'median of new/old: training {training:.3f}, writing {writing:.3f}')

if __name__ == '__main__':
    p = argparse.ArgumentParser()
    p.add_argument('checkouts', nargs='*')
    p.add_argument('--tree', action='store_true')
    p.add_argument('--time', action='store_true')
    p.add_argument('--do', choices=['record', 'once'])
    a = p.parse_args()
    if a.do: {'record': record, 'once': once}[a.do]()
    elif len(a.checkouts) != 2: p.error('give two checkouts')
    elif a.tree: compare_trees(*a.checkouts)
    elif a.time: race(*a.checkouts)
    else: compare(*a.checkouts)
