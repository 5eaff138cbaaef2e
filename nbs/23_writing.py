"""Long measurements of chapter 23: writing several bytes at a time. Results are small JSON files in results/writing; what is done is skipped.

    python nbs/23_writing.py cost --data DIR      # what further heads cost the model: several ways to train them, side by side
    python nbs/23_writing.py cost --data DIR --seed 1 --ways one trunk chained chained32 --corpora stories        # another seed of some of them
    python nbs/23_writing.py seconds              # what they cost in time
    python nbs/23_writing.py bases                # which sides of the embedding and the heads SOAP should turn
    python nbs/23_writing.py equal                # the same, each way for the same time; --seed 1 for another seed
    python nbs/23_writing.py models --data DIR    # trains the models that write; resumable; weights go to runs/writing
    python nbs/23_writing.py tune --data DIR      # goes on with the heads of stories-nano alone
    python nbs/23_writing.py write --data DIR     # bytes per pass and per second of those models
    python nbs/23_writing.py steady               # bytes per second of plain writing far into a text, of the two with the rule
    python nbs/23_writing.py bounds --data DIR    # what draft trees and the shallow blocks as drafter could bring them
    python nbs/23_writing.py lookup --data DIR    # how often a text continues as it did before
"""
import argparse, hashlib, heapq, json, math, platform, statistics, subprocess, time
from datetime import date
from pathlib import Path
import numpy as np, torch
from pico.data import MARKS, Corpus
from pico.batches import batch
from pico.sources import load_corpus
from pico.evaluate import bits_per_byte
from pico.decode import Decoder
from pico.generate import Writing, byte_probabilities, generate, guess, rounds, stream
from pico.heads import ByteHeads, head_weights, linear_loss
from pico.model import Pico, PicoConfig
from pico.soap import SOAP
from pico.stories import story
from pico.train import TrainConfig, backward, make_optimizer, rate, train

HERE = Path(__file__).parent
RESULTS, RUNS = HERE/'results'/'writing', HERE.parent/'runs'/'writing'
CORPORA = { # name: (file in --data, public source)
    'stories': (None, 'the built-in stories'),
    'english': ('war_and_peace.txt', 'War and Peace, English, public domain'),
    'russian': ('tinystories_ru.txt', 'MichaelMonashev/TinyStories-ru, Apache-2.0'),
    'python':  ('python_algorithms.txt', 'TheAlgorithms/Python, MIT'),
}
N = 8

def text(name, data, split):
    return load_corpus('stories' if name == 'stories' else str(Path(data)/CORPORA[name][0]), split)

def source(name, data):
    file = CORPORA[name][0]
    return dict(source=CORPORA[name][1],
                sha256=hashlib.sha256((Path(data)/file).read_bytes()).hexdigest() if file else None)

def save(name, result, command):
    "A result file with how it was made."
    commit = subprocess.run(['git', 'rev-parse', '--short', 'HEAD'], capture_output=True, text=True,
                            cwd=HERE).stdout.strip()
    result |= dict(command=command, commit=commit, date=date.today().isoformat(),
                   device=f'{platform.machine()} processor, 1 thread, other programs running', torch=torch.__version__)
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS/f'{name}.tmp').write_text(json.dumps(result, indent=1) + '\n')
    (RESULTS/f'{name}.tmp').rename(RESULTS/f'{name}.json')

def starts(corpus, n, length=100):
    "The first bytes of n held-out documents, or of places in a long one."
    raw = b''.join(a.tobytes() for a in corpus.text(0, min(corpus.text_bytes, 200_000)))
    return [raw[i*len(raw)//n:][:length] for i in range(n)]

# --- what heads cost the model
# --------------------------------------------------------------------------------------------

class Heads(ByteHeads):
    "Linear heads whose further slices are trained in another way."
    def __init__(self, old, detach=False, weights=None):
        super().__init__(old.weight.shape[1], old.N, old.every)
        self.detach, self.set, self.active = detach, weights, True
    def loss(self, h, y, chunk=512, counts=None):
        share = (head_weights(self.N) if self.set is None else torch.tensor(self.set)) / counts
        first, one = linear_loss(h, self.weight[:256], self.bias[:256], y[...,:1], share[:1], chunk)
        one = one.sum((0,1)) / counts[:1]
        if not self.active: return first, torch.cat([one, one.new_zeros(self.N-1)])
        more, rest = linear_loss(h.detach() if self.detach else h, self.weight[256:], self.bias[256:], y[...,1:],
                                 share[1:], chunk)
        return first + more, torch.cat([one, rest.sum((0,1)) / counts[1:]])

WAYS = { # name: (changes to the configuration, changes to the heads)
    'one':       (dict(next_tokens=1), None),
    'trunk':     (dict(next_tokens=N), None),                                        # the original's way
    # through the trunk, in the last quarter only
    'late':      (dict(next_tokens=N), dict(weights=[1.] + [.3]*(N-1))),
    'detached':  (dict(next_tokens=N), dict(detach=True)),
    # through the trunk, at every 8th byte
    'sparse':    (dict(next_tokens=N, heads_every=8), None),
    'chained':   (dict(next_tokens=N, heads='chained', heads_every=8), None),
    'chained16': (dict(next_tokens=N, heads='chained', heads_every=16), None),
    'chained32': (dict(next_tokens=N, heads='chained', heads_every=32), None),
    'trunk, 4': (dict(next_tokens=4), None),                                        # the preset `nano` as it was
    'chained16, 4': (dict(next_tokens=4, heads='chained', heads_every=16), None),
    'chained32, 4': (dict(next_tokens=4, heads='chained', heads_every=32), None),
}
COSTS = 'one', 'trunk', 'late', 'detached', 'sparse', 'chained', 'chained32'
STEPS, EACH, ROWS, LENGTH, RATE, WARMUP = 300, 50, 4, 512, 8e-3, 40

# written out here, so that these results keep their meaning whatever the presets of the library become
DESIGN = dict(router='topk', latent_carry='no', heads='linear', heads_every=1)

def config(preset, changes):
    "A shape of the library with the design of its first presets and some changes."
    return PicoConfig.preset(preset, **DESIGN | changes)

def learner(shape, heads, seed, optimizer='adamw'):
    "A model, a running average of its weights, an optimizer, and what is noted about them."
    torch.manual_seed(seed)
    models = [Pico(shape) for _ in (0, 1)]
    for m in models if heads else []: m.unembedding = Heads(m.unembedding, **heads)
    return dict(model=models[0].train(), average=models[1].eval(),
                optimizer=make_optimizer(models[0], TrainConfig(learning_rate=RATE, optimizer=optimizer)), took=[],
                stepped=[], curve=[])

def learn(r, x, y, step, rate):
    "One step, with its processor time."
    m, start = r['model'], time.thread_time()
    for group in r['optimizer'].param_groups: group['lr'] = rate * min(1, (step + 1) / WARMUP)
    backward(m, [(x, y[...,:m.config.next_tokens])])
    torch.nn.utils.clip_grad_norm_(m.parameters(), 1.)
    before = time.thread_time()
    r['optimizer'].step()
    r['stepped'].append(time.thread_time() - before)
    r['optimizer'].zero_grad()
    m.router_state_step()
    r['took'].append(time.thread_time() - start)
    for mean, t in zip(r['average'].state_dict().values(), m.state_dict().values()): mean.lerp_(t, 9 / (step + 9))

def bytes_gained(model, held_out):
    "Bytes a pass by temperature, over eight texts."
    gained = {}
    for t in (0, .8):
        gs = generate(model, starts(held_out, 8), 150, temperature=t, ignore_end=True, seed=list(range(8)),
                      speculative=True)
        gained[t] = sum(sum(g.accepted) for g in gs) / sum(len(g.accepted) for g in gs)
    return gained

def cost(a):
    "All ways side by side: the same batches, each step timed in turn, so that whatever disturbs one disturbs all."
    for corpus in a.corpora:
        if (RESULTS/f'cost-{corpus}-{a.seed}.json').exists(): continue
        data, held_out = text(corpus, a.data, 'train'), text(corpus, a.data, 'validation')
        runs = {way: learner(config('nano', WAYS[way][0]), WAYS[way][1], a.seed) for way in a.ways or COSTS}
        for step in range(STEPS):
            x, y = batch(data, step, ROWS, LENGTH, N, a.seed)
            for way, r in runs.items():
                if way == 'late': r['model'].unembedding.active = step >= .75 * STEPS
                learn(r, x, y, step, RATE)
                if (step + 1) % EACH == 0:
                    r['curve'].append(bits_per_byte(r['average'], held_out, max_bytes=20_000).bpb)
            if (step + 1) % EACH == 0:
                print(corpus, a.seed, step + 1, {w: round(r['curve'][-1], 3) for w, r in runs.items()}, flush=True)
        ways = {way: dict(curve=r['curve'], seconds_per_step=statistics.median(r['took']),
                          gained=bytes_gained(r['average'], held_out),
                          took_ratio=sum(r['took']) / sum(runs['one']['took'])) for way, r in runs.items()}
        save(f'cost-{corpus}-{a.seed}', dict(corpus=corpus, seed=a.seed, ways=ways, every=EACH,
                                             bytes_per_step=ROWS*LENGTH, data=source(corpus, a.data)),
                                             'python nbs/23_writing.py cost --data DIR')

EQUAL = { # name: (preset, changes, optimizer, learning rate, processor seconds that each way gets, ways)
    'nano': ('nano', {}, 'adamw', RATE, 60, ('one', 'trunk', 'chained', 'chained16', 'chained32')),
    'xs':   ('xs', dict(dim=144), 'adamw', 4e-3, 120, ('one', 'trunk', 'chained16', 'chained32')),
    # as pico-train does it
    'demo': ('nano', dict(router='space', latent_carry='yes'), 'soap', RATE, 80,
             ('one', 'trunk, 4', 'chained32, 4', 'chained32')),
}
POINTS = 6

def equal(a):
    "Ways to train heads, each for the same processor time: the one that has had least takes the next step, so that whatever disturbs one disturbs all."
    for shape, (preset, changes, optimizer, rate, budget, names) in EQUAL.items():
        name = f'equal-{shape}-{a.seed}'
        if (a.only and shape not in a.only) or (RESULTS/f'{name}.json').exists(): continue
        data, held_out = text('stories', a.data, 'train'), text('stories', a.data, 'validation')
        runs = {way: learner(config(preset, changes | WAYS[way][0]), WAYS[way][1], a.seed, optimizer) for way in names}
        while any(len(r['curve']) < POINTS for r in runs.values()):
            way, r = min(((w, r) for w, r in runs.items() if len(r['curve']) < POINTS), key=lambda v: sum(v[1]['took']))
            learn(r, *batch(data, len(r['took']), ROWS, LENGTH, N, a.seed), len(r['took']), rate)
            if sum(r['took']) >= (len(r['curve']) + 1) * budget / POINTS:
                r['curve'].append(dict(seconds=sum(r['took']), steps=len(r['took']),
                                       bpb=bits_per_byte(r['average'], held_out, max_bytes=20_000).bpb))
                print(shape, a.seed, way, r['curve'][-1], flush=True)
        save(name, dict(preset=preset, optimizer=optimizer, seed=a.seed,
                        ways={w: dict(curve=r['curve'], gained=bytes_gained(r['average'],
                                                                            held_out)) for w, r in runs.items()},
                                                                            bytes_per_step=ROWS*LENGTH),
                                                                            f'python nbs/23_writing.py equal --seed '
                                                                            f'{a.seed}')

def seconds(a):
    "Time of a training step with eight heads against one with one head, taking turns; with SOAP the mean, since every tenth step is dearer."
    out = {}
    for preset, changes in (('nano', {}), ('xs', dict(dim=144))):
        for optimizer, steps in (('adamw', 12), ('soap', 21)):
            ways = {'one': dict(next_tokens=1),
                    'linear': dict(next_tokens=N)} | {f'chained {e}': dict(next_tokens=N, heads='chained',
                                                                           heads_every=e) for e in (1, 8, 16, 32)}
            models = {w: Pico(config(preset, changes | c)).train() for w, c in ways.items()}
            optimizers, took = {w: make_optimizer(m, TrainConfig(optimizer=optimizer)) for w,
                                m in models.items()}, {w: [] for w in models}
            data = load_corpus('stories', 'train')
            for step in range(steps):
                x, y = batch(data, step, ROWS, LENGTH, N, 0)
                for w, m in models.items():
                    start = time.thread_time()
                    backward(m, [(x, y[...,:m.config.next_tokens])])
                    optimizers[w].step()
                    optimizers[w].zero_grad()
                    if step: took[w].append(time.thread_time() - start)
            middle = statistics.median if optimizer == 'adamw' else statistics.mean
            out[preset + ' soap' * (optimizer
                                    == 'soap')] = {w: dict(seconds=middle(t),
                                                           ratio=statistics.median(p/q for p, q in zip(t, took['one']))
                                                           if optimizer == 'adamw' else sum(t) / sum(took['one']))
                                                           for w, t in took.items()}
            print(preset, optimizer, {w: round(sum(t) / sum(took['one']), 2) for w, t in took.items()}, flush=True)
    save('seconds', dict(presets=out, bytes_per_step=ROWS*LENGTH), 'python nbs/23_writing.py seconds')

def bases(a, steps=500):
    "Which sides of the embedding and the heads should SOAP turn? Three ways taking turns, on stories that no chapter reports."
    data, held_out, out = text('stories', a.data, 'train'), Corpus.from_bytes([story(i, seed=1).text.encode()
                                                                               for i in range(120)]), {}
    for seed in (0, 1):
        runs = {}
        for way in ('both sides', 'not the bytes', 'the state'):
            r = runs[way] = learner(config('nano', dict(router='space', latent_carry='yes') | WAYS['chained32'][0]),
                                    None, seed, 'soap')
            m, heads = r['model'], r['model'].unembedding
            if way == 'the state': continue                       # that is what `make_optimizer` does
            tables = {m.embedding.weight, heads.weight, heads.seen.weight,
                      heads.guess.weight} if way == 'not the bytes' else set()
            def group(which, decay=.1, **kw):
                return dict(params=[p for p in m.parameters() if which(p)], weight_decay=decay, **kw)
            groups = [group(lambda p: p.dim() >= 2 and p not in tables), group(lambda p: p.dim() < 2, 0.),
                      group(lambda p: p in tables, rows=False)]
            r['optimizer'] = SOAP([g for g in groups if g['params']], lr=RATE)
        for step in range(steps):
            x, y = batch(data, step, ROWS, LENGTH, N, seed)
            # `learn` warms up by itself
            for r in runs.values(): learn(r, x, y, step, RATE * rate(step, step/steps, 0, 'wsd'))
        for way, r in runs.items():
            m = r['model'].eval()
            m.unembedding.every = 1
            with torch.inference_mode():
                heads = sum(m.loss(*batch(held_out, k, ROWS, LENGTH, N, 7)).per_head
                            for k in range(12)) / 12 / math.log(2)
            out.setdefault(way, []).append(dict(seed=seed, heads=heads.tolist(), seconds=sum(r['took']),
                                                optimizer=sum(r['stepped'])))
            print(seed, way, out[way][-1], flush=True)
    save('bases', dict(ways=out, steps=steps, bytes_per_step=ROWS*LENGTH), 'python nbs/23_writing.py bases')

# --- models that write
# ----------------------------------------------------------------------------------------------------

MODELS = { # name: (corpus, preset, changes, steps, learning rate)
    'stories-nano': ('stories', 'nano', dict(router='topk'), 1500, 8e-3),
    'stories-xs':   ('stories', 'xs', dict(dim=144, router='topk', heads_every=16), 600, 4e-3),
    'python-nano':  ('python', 'nano', dict(router='topk', heads_every=16), 1500, 8e-3),
    'english-nano': ('english', 'nano', dict(router='topk', heads_every=16), 1500, 8e-3),
    'russian-nano': ('russian', 'nano', dict(router='topk', heads_every=16), 1500, 8e-3),
    # the router of pico-train
    'stories-nano-rule': ('stories', 'nano', dict(router='space', latent_carry='yes'), 1500, 8e-3),
    'stories-xs-rule':   ('stories', 'xs', dict(dim=144, router='space', latent_carry='yes', heads_every=16), 600,
                          4e-3),
}

def models(a):
    "Models with eight chained heads."
    for name, (corpus, preset, changes, steps, rate) in MODELS.items():
        if a.only and name not in a.only: continue
        settings = TrainConfig(context_len=512, batch_size=4, optimizer='adamw', learning_rate=rate, warmup_steps=50,
                               max_steps=steps, validation_interval=500, validation_bytes=20_000,
                               checkpoint_interval=250, keep=1)
        train(RUNS/name, text(corpus, a.data, 'train'),
              config(preset, dict(next_tokens=N, heads='chained', heads_every=8) | changes), settings,
              text(corpus, a.data, 'validation'))

def tune(a):
    "Go on with the chained heads alone: the model is frozen, they learn from every third byte of causal states."
    data = text('stories', a.data, 'train')
    torch.manual_seed(0)
    model = Pico.from_pretrained(RUNS/'stories-nano')
    heads = model.unembedding
    heads.every = 3
    own = [p for n, p in heads.named_parameters() if n not in ('weight', 'bias')]
    optimizer = torch.optim.AdamW(own, 4e-3, betas=(.9, .95))
    for step in range(TUNE):
        for g in optimizer.param_groups: g['lr'] = 4e-3 * min(1, (step + 1) / 20) * (1 - step / TUNE)
        x, y = batch(data, 100_000 + step, 4, 512, N)
        with torch.no_grad(): h, _ = model.states(x, routing='causal')
        total, per_head = heads.loss(h, y)
        total.backward()
        optimizer.step()
        optimizer.zero_grad()
        heads.weight.grad = heads.bias.grad = None
        if (step + 1) % 50 == 0:
            print(step + 1, [round(v, 2) for v in (per_head.detach() / math.log(2)).tolist()], flush=True)
    model.save_pretrained(RUNS/'stories-nano-tuned')

TUNE = 500
MODES = { # name: what `rounds` is asked for
    'plain':  dict(),
    'drawn':  dict(drafts=N-1),
    'likely': dict(drafts=N-1, draft='likely'),
    'always': dict(drafts=N-1, least=0),
    'lookup': dict(copies=15),
    'both':   dict(drafts=N-1, copies=15),
    'both, likely': dict(drafts=N-1, copies=15, draft='likely'),
} | {f'{n} heads': dict(drafts=n-1) for n in (2, 3, 4, 6)}
LENGTH_WRITTEN = 200

def timed(model, prompts, temperature, seed, **kw):
    "Write on from each prompt, as one batch: bytes, passes (the longest row's), seconds of processor time, and bytes gained in each round."
    rows = [Writing(seed + i, LENGTH_WRITTEN) for i in range(len(prompts))]
    start = time.thread_time()
    for _ in rounds(model, prompts, rows, temperature, None, after={MARKS['bytes'][1][0]: MARKS['bytes'][0][0]}, **kw):
        pass
    return sum(len(r.data) for r in rows), sum(r.forwards - 1
                                               for r in rows), time.thread_time() - start, [g for r in rows
                                                                                            for g in r.accepted[1:-1]]

def write(a):
    "Every way to guess against the plain loop: same model, same prompts, all ways taking turns on each prompt."
    for name, (corpus, *_) in (MODELS | {'stories-nano-tuned': MODELS['stories-nano']}).items():
        if (a.only and name not in a.only) or (RESULTS
                                               /f'write-{name}.json').exists() or not (RUNS/name
                                                                                       /'model.safetensors').exists():
            continue
        model, held_out = Pico.from_pretrained(RUNS/name), text(corpus, a.data, 'validation')
        prompts = [MARKS['bytes'][0] + p for p in starts(held_out, 16)]
        out = []
        for batch_size, groups in ((1, [[p] for p in prompts[:10]]), (16, [prompts])):
            for t in (0, .8):
                got = {mode: [] for mode in MODES if batch_size == 1 or 'heads' not in mode}
                for g, group in enumerate(groups if batch_size == 1 else groups*2):
                    for mode in got: got[mode].append(timed(model, group, t, 100*g, **MODES[mode]))
                for mode, runs in got.items():
                    gained = sum((r[3] for r in runs), [])
                    out.append(dict(batch_size=batch_size, temperature=t, mode=mode,
                                    bytes_per_pass=sum(r[0] for r in runs) / sum(r[1] for r in runs),
                                    bytes_per_second=sum(r[0] for r in runs) / sum(r[2] for r in runs),
                                    speedup=statistics.median(p[2]/r[2] for p, r in zip(got['plain'], runs)),
                                    gained=np.bincount(gained, minlength=17).tolist()))
                    print(name, {k: round(v, 2) if isinstance(v, float) else v for k,
                                 v in out[-1].items() if k != 'gained'}, flush=True)
        score = bits_per_byte(model, held_out, max_bytes=20_000)
        save(f'write-{name}', dict(model=name, corpus=corpus, bpb=score.bpb, routed=score.routed_fraction,
                                   config=model.config.to_dict(), parameters=model.num_parameters(), runs=out,
                                   data=source(corpus, a.data)), 'python nbs/23_writing.py write --data DIR')

def steady(a, turns=7, length=1500):
    "Plain writing, without what loading and the prompt take; the models take turns."
    models, rates = {n: Pico.from_pretrained(RUNS/n) for n in MODELS if n.endswith('-rule')}, {}
    for turn in range(turns):
        for n, m in models.items():
            steps = stream(m, 'Once upon a time', max_bytes=length, speculative=False, seed=turn, ignore_end=True)
            next(steps)
            start = time.thread_time()
            written = sum(1 for _ in steps)
            rates.setdefault(n, []).append(written / (time.thread_time() - start))
    print({n: [round(v) for v in r] for n, r in rates.items()})
    save('steady', dict(models=rates, bytes=length, temperature=.8), 'python nbs/23_writing.py steady')

# --- what trees and a shallow drafter could bring
# -------------------------------------------------------------------------

PIECES = 1, 2, 3, 4, 6, 8, 12, 16, 24, 32
MOST = 31                                                          # nodes of the largest tree

def pass_costs(texts, make):
    "Seconds of a pass over n bytes of a model's own text, and of a shallow pass over one; ways take turns."
    took = {}
    for text, begin in texts:
        for n, latent in [(n, True) for n in PIECES] + [(1, False)]:
            d = make(latent)
            d.read([list(text[:begin])])
            pieces = [list(text[i:i+n]) for i in range(begin, len(text) - n + 1, n)]
            start = time.thread_time()
            for piece in pieces: d.read([piece])
            took.setdefault((n, latent), []).append((time.thread_time() - start) / len(pieces))
    return {n: statistics.median(took[n, True]) for n in PIECES}, statistics.median(took[1, False])

def walk(text, begin, stands):
    "Rounds along a text that the model wrote by itself: `stands(i)` says how many guesses stand after byte i + 1, how many there were, and how many steps they took."
    i, rounds_ = begin, []
    while i + N + 1 < len(text):
        n, guessed, steps = stands(i)
        rounds_.append((n + 1, guessed, steps))
        i += n + 1
    return rounds_

def tree_of(ahead, h, text, i, tau):
    "The tree of the likeliest paths, best first: the chances of its nodes in that order, and the places of those that are on the text."
    law = lambda: byte_probabilities(ahead.next([byte])[0], tau)
    ahead.begin(h[i:i+1])
    byte = text[i+1]
    p = law()
    count, heap, chances, found = 0, [], [], []
    def children(p, chance, depth, on):
        nonlocal count
        for v in np.argsort(-p)[:8]:
            count += 1
            heapq.heappush(heap, (-chance * p[v], count, int(v), depth, on and int(v) == text[i+1+depth], state))
    state = ahead.s.copy()
    children(p, 1., 1, True)
    while len(chances) < MOST:
        chance, _, byte, depth, on, s = heapq.heappop(heap)
        if on: found.append(len(chances))
        chances.append(-chance)
        if depth < N-1:
            ahead.s = s.copy()
            p = law()
            state = ahead.s.copy()
            children(p, -chance, depth + 1, on)
    return np.array(chances), found

def bounds(a):
    "On text that a model wrote byte by byte: how many bytes a pass would chains, trees and the shallow blocks gain, and what would that cost? Trees are given their attention and their choosing for nothing."
    for name, (corpus, *_) in MODELS.items():
        if (a.only and name not in a.only) or (RESULTS
                                               /f'bounds-{name}.json').exists() or not (RUNS/name
                                                                                        /'model.safetensors').exists():
            continue
        model, prompts = Pico.from_pretrained(RUNS/name), [MARKS['bytes'][0] + p
                                                           for p in starts(text(corpus, a.data, 'validation'), 10)]
        ahead, out = model.unembedding.drafter(), {}
        for t in (0, .8):
            rng, found, plain, agree, common = np.random.default_rng(0), {}, [], [], []
            texts = []
            for k, prompt in enumerate(prompts):
                row = Writing(100*k, LENGTH_WRITTEN)
                writing = rounds(model, [prompt], [row], t, None, after={MARKS['bytes'][1][0]: MARKS['bytes'][0][0]})
                next(writing)
                start = time.thread_time()
                for _ in writing: pass
                plain.append((time.thread_time() - start) / (LENGTH_WRITTEN - 1))
                texts.append((prompt + bytes(row.data), len(prompt) - 1))
            cost, shallow = pass_costs(texts, lambda latent: Decoder(model, 1, 0, latent))
            around = statistics.median(plain) - cost[1]            # what the loop itself takes
            for x, begin in texts:
                h, z, *_ = Decoder(model, 1, 0).read([list(x)])
                p = byte_probabilities(z, t)
                q_shallow, sure_shallow = (byte_probabilities(Decoder(model, 1, 0, latent=False).read([list(x)])[1],
                                                              tau) for tau in (t, t or 1))
                agree += (q_shallow.argmax(-1) == p.argmax(-1))[begin:].tolist()
                common += np.minimum(p, q_shallow).sum(-1)[begin:].tolist()
                last = len(x) - N - 1
                ahead.begin(h[:last])
                # (last, N-1, 256)
                q = np.stack([byte_probabilities(ahead.next(list(x[k:last+k])), t or 1) for k in range(1, N)], 1)
                # what stands there
                y = np.stack([np.frombuffer(x, np.uint8)[k+1:last+k+1] for k in range(1, N)], 1)
                at = lambda d, v: np.take_along_axis(d, v[...,None].astype(int), -1)[...,0]
                rank, chance, truth = (q > at(q, y)[...,None]).sum(-1), at(q, y), np.stack([at(p[k:last+k], y[:,k-1])
                                                                                            for k in range(1, N)], 1)
                def chain(good, sure, least, d=N-1):               # a guess stands if all before it stood
                    def stands(i):
                        asked = int((np.cumprod(sure[i]) >= least).sum()) if least else d
                        asked = min(asked, d)
                        ok = good(i)[:asked]
                        return int(np.cumprod(ok).sum()), asked, min(asked + 1, d)
                    return stands
                sure = q.max(-1)
                drawn = (lambda i: rank[i] == 0) if t == 0 else lambda i: rng.random(N-1) * truth[i] < chance[i]
                for least in (0, .1, .2, .3, .5):
                    found.setdefault(f'chain, drawn, {least}', []).extend(walk(x, begin, chain(drawn, sure, least)))
                for least in (0, .1, .2, .3, .5):
                    found.setdefault(f'chain, likely, {least}', []).extend(walk(x, begin, chain(lambda i: rank[i] == 0,
                                                                                                sure, least)))
                for shape, wide in (('2', [2]), ('3', [3]), ('2x2', [2, 2])):
                    for d in (2, 3, 5, 7):
                        widths = np.array((wide + [1]*N)[:d])
                        nodes = int(np.cumprod(widths).sum())
                        found.setdefault(f'tree {shape}, {d} deep', []).extend(walk(x, begin,
                                                                                    lambda i: (
                                                                                        int(
                                                                                            np.cumprod(rank[i,:d] < widths).sum()), nodes, d)))
                grown = {}
                def best(i, n, least):
                    if i not in grown: grown[i] = tree_of(ahead, h, x, i, t or 1)
                    chances, on = grown[i]
                    m = min(n, int((chances >= least).sum()))
                    return sum(r < m for r in on), m, N-1 if m else 1
                for n in (3, 7, 15, MOST):
                    for least in (0, .05, .1, .2, .3):
                        found.setdefault(f'best tree, {n} nodes, {least}', []).extend(walk(x, begin,
                                                                                           lambda i: best(i, n, least)))
                both = np.stack([at(q_shallow[k:last+k], y[:,k-1]) for k in range(1, N)],
                                1), np.stack([sure_shallow[k:last+k].max(-1) for k in range(1, N)], 1)
                for d in (1, 2, 4, 7):
                    for least in (0, .3):
                        found.setdefault(f'shallow, {d}, {least}', []).extend(walk(x, begin,
                                                                                   chain(
                                                                                       lambda i: rng.random(N-1) * truth[i] < both[0][i], both[1], least, d)))
            s0, noise, few = h[:1], np.zeros((1, N-1, 256)), {}
            for _ in range(40):
                for d in (1, N-1):
                    start = time.thread_time()
                    guess(ahead, s0, [x[1]], noise[:,:d], t, None, 'drawn', 0)
                    few.setdefault(d, []).append(time.thread_time() - start)
            step = (statistics.median(few[N-1]) - statistics.median(few[1])) / (N-2)
            first = statistics.median(few[1]) - step
            of = lambda n: float(np.interp(n, PIECES, [cost[k] for k in PIECES]))
            ways = {}
            for way, rs in found.items():
                asking = (lambda steps: steps
                          * shallow) if way.startswith('shallow') else lambda steps: first + steps * step
                seconds = sum(around + of(1 + guessed) + asking(steps) for _, guessed, steps in rs)
                gained = sum(r[0] for r in rs)
                ways[way] = dict(bytes_per_pass=gained/len(rs), nodes=sum(r[1] for r in rs)/len(rs),
                                 speedup=gained * statistics.median(plain) / seconds)
            out[t] = dict(ways=ways, seconds=dict(plain=statistics.median(plain), passes=cost, shallow=shallow,
                                                  guess_first=first, guess_step=step), agree=float(np.mean(agree)),
                                                  common=float(np.mean(common)))
            for w in ('chain, ', 'tree ', 'best tree', 'shallow'):
                k, v = max(((k, v) for k, v in ways.items() if k.startswith(w)), key=lambda kv: kv[1]['speedup'])
                print(name, t, k, {a: round(b, 2) for a, b in v.items()}, flush=True)
        save(f'bounds-{name}', dict(model=name, temperatures=out), 'python nbs/23_writing.py bounds --data DIR')

def lookup(a):
    "After the last L bytes, as they stood before: is the byte that followed then the one that follows now?"
    found = {}
    for name in CORPORA:
        held_out = text(name, a.data, 'validation')
        raw, found[name] = b''.join(p.tobytes() for p in held_out.text(0, 60_000)), {}
        for L in (4, 6, 8, 12, 16, 24):
            places, n, right = {}, 0, 0
            for i in range(L, len(raw)):
                j = places.get(raw[i-L:i])
                if j is not None:
                    n += 1
                    right += raw[j] == raw[i]
                places[raw[i-L:i]] = i
            found[name][L] = dict(found=n/len(raw), right=right/max(n, 1))
    save('lookup', dict(corpora=found, bytes=60_000, data={n: source(n, a.data) for n in CORPORA}),
         'python nbs/23_writing.py lookup --data DIR')

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('stage', choices=['cost', 'seconds', 'bases', 'equal', 'models', 'tune', 'write', 'steady', 'bounds',
                                     'lookup'])
    p.add_argument('--data', help='folder that holds the corpora')
    p.add_argument('--seed', type=int, default=0)
    p.add_argument('--only', nargs='*', help='only these models or presets')
    p.add_argument('--ways', nargs='*', choices=WAYS, help='only these ways')
    p.add_argument('--corpora', nargs='*', choices=CORPORA, default=['stories', 'python'])
    a = p.parse_args()
    torch.set_num_threads(1)
    globals()[a.stage](a)

if __name__ == '__main__': main()
