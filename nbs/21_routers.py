"""The grid of chapter 21: routers compared. One cell = one model trained and scored; its result is one small JSON file.

    python nbs/21_routers.py --stage stories                      # needs nothing
    python nbs/21_routers.py --stage text --data DIR              # DIR holds the corpora named in CORPORA
    python nbs/21_routers.py --stage stories --part 1/2           # every second cell, for two machines or cores
    python nbs/21_routers.py --stage text-capacity --data DIR --seeds 1      # other capacities on the corpora

Cells that are done are skipped: stop it when you like, start it again to go on, raise --seeds to extend it.
"""
import argparse, hashlib, json, math, platform, statistics, subprocess, sys, time
from datetime import date
from pathlib import Path
import torch
from pico.data import Corpus
from pico.batches import batch
from pico.sources import load_corpus
from pico.evaluate import bits_per_byte, recall, router_report
from pico.model import Pico, PicoConfig
from pico.stories import story
from pico.train import TrainConfig, backward, flops_per_byte, make_optimizer

RESULTS = Path(__file__).parent/'results'/'routers'
CORPORA = { # name: (file in --data, public source)
    'english': ('war_and_peace.txt', 'War and Peace, English, public domain'),
    'russian': ('tinystories_ru.txt', 'MichaelMonashev/TinyStories-ru, Apache-2.0'),
    'python':  ('python_algorithms.txt', 'TheAlgorithms/Python, MIT'),
}
EVERY = 'none', 'all', 'space', 'stride', 'random', 'topk', 'threshold', 'predictor'
STAGES = { # stage: [(corpora, routers, capacities)]
    'stories':  [(['stories'], EVERY, [.25])],
    'text':     [(list(CORPORA), ['none', 'all', 'space', 'stride', 'topk', 'threshold'], [.25])],
    'more':     [(list(CORPORA), ['random', 'predictor'], [.25])],
    'capacity': [(['stories'], ['topk', 'threshold', 'predictor', 'stride', 'random'], [.125, .5])],
    'text-capacity': [(list(CORPORA), ['topk', 'threshold', 'stride'], [.125, .5])],
    'more-capacity': [(list(CORPORA), ['predictor', 'random'], [.125, .5])],
}
STEPS, EACH, ROWS, LENGTH, RATE, WARMUP = 800, 100, 4, 512, 8e-3, 40

def cells(stage, seeds):
    "Every (corpus, router, capacity, seed) of a stage, all of one seed before the next."
    return [(c, r, k, s) for s in range(seeds) for cs, rs, ks in STAGES[stage] for c in cs for k in ks for r in rs]

def corpora(name, data):
    "Training and validation text, and where it comes from."
    # stories that nothing was ever chosen by: designs were compared on those of seed 1
    if name == 'stories':
        return load_corpus('stories', 'train'), Corpus.from_bytes([story(i, seed=2).text.encode()
                                                                   for i in range(120)]), dict(source='the built-in '
                                                                                                      'stories; held '
                                                                                                      'out: seed 2',
                                                                                                      sha256=None)
    file, source = Path(data)/CORPORA[name][0], CORPORA[name][1]
    return load_corpus(str(file), 'train'), load_corpus(str(file),
                                                        'validation'), dict(source=source,
                                                                            sha256=hashlib.sha256(file.read_bytes()).hexdigest())

# written out here, so that these results keep their meaning whatever the presets of the library become
DESIGN = dict(router='topk', latent_carry='no', heads='linear', heads_every=1)

def config(router, capacity):
    "The model that is measured, with a router and its share of the bytes."
    return PicoConfig.preset('nano', **DESIGN | dict(router=router, latent_capacity_factor=capacity))

def run(corpus, router, capacity, seed, data, steps=STEPS):
    "Train one model at a constant learning rate; score a running average of its weights, so that every point of the curve is a finished model."
    train, held_out, source = corpora(corpus, data)
    shape = config(router, capacity)
    torch.manual_seed(seed)
    model, average = Pico(shape).train(), Pico(shape).eval()
    optimizer = make_optimizer(model, TrainConfig(learning_rate=RATE, optimizer='adamw'))
    own, mean = ([t for t in m.state_dict().values()] for m in (model, average))
    curve, took, used, flops, seconds = [], [], [], 0., 0.
    for step in range(steps):
        start = time.process_time()
        for group in optimizer.param_groups: group['lr'] = RATE * min(1, (step + 1) / WARMUP)
        out = backward(model, [batch(train, step, ROWS, LENGTH, shape.next_tokens, seed)])
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.)
        optimizer.step()
        optimizer.zero_grad()
        model.router_state_step()
        took.append(time.process_time() - start)
        used.append(out['routed'])
        flops += ROWS * LENGTH * flops_per_byte(shape, out['routed'])
        for m, t in zip(mean, own): m.lerp_(t, 9 / (step + 9))    # the last tenth or so of all steps; at step 0 a copy
        if (step + 1) % EACH == 0:
            score = bits_per_byte(average, held_out, max_bytes=20_000)
            curve.append(dict(step=step + 1, bytes=(step + 1) * ROWS * LENGTH, flops=flops, bpb=score.bpb,
                              routed=score.routed_fraction, trained=statistics.mean(used[-EACH:])))
    report = router_report(average, held_out, max_bytes=50_000)
    end = dict(bpb=report.bpb, latent_off=report.bpb_off, routed=report.used, leak=report.leak,
               precision=report.precision, recall=report.recall, f1=report.f1, random_f1=report.random_f1,
               entropy=report.entropy, rates=report.rates, seconds_per_step=statistics.median(took))
    # budget on other text
    end['elsewhere'] = {name: bits_per_byte(average, load_corpus(name, 'validation'), max_bytes=5_000).routed_fraction
                        for name in ('stories', 'python')}
    if corpus == 'stories':
        f = recall(average, [story(i, seed=2) for i in range(20)], far=200)
        end['facts'] = dict(accuracy=f.accuracy, probability=f.probability, rank=f.rank, chance=f.chance, n=f.n)
    return dict(corpus=corpus, router=router, capacity=capacity, seed=seed, curve=curve, end=end, data=source)

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--stage', choices=STAGES, required=True)
    p.add_argument('--data', help='folder that holds the corpora')
    p.add_argument('--seeds', type=int, default=3)
    p.add_argument('--part', default='0/1', help='i/n: only every n-th cell, from the i-th')
    a = p.parse_args()
    if not a.data and any(c in CORPORA for cs,_,_ in STAGES[a.stage] for c in cs):
        p.error(f'--stage {a.stage} needs --data DIR, the folder that holds ' + ', '.join(f for f,
                                                                                          _ in CORPORA.values()))
    torch.set_num_threads(1)                                      # seconds are processor time of one thread
    i, n = map(int, a.part.split('/'))
    commit = subprocess.run(['git', 'rev-parse', '--short', 'HEAD'], capture_output=True, text=True,
                            cwd=RESULTS.parent).stdout.strip()
    for corpus, router, capacity, seed in cells(a.stage, a.seeds)[i::n]:
        file = RESULTS/f'{corpus}-{router}-{capacity:g}-{seed}.json'
        if file.exists(): continue
        result = run(corpus, router, capacity, seed, a.data)
        result |= dict(command=f'python nbs/21_routers.py --stage {a.stage}' + ' --data DIR' * bool(a.data)
                       + f' --seeds {a.seeds}' * (a.seeds != 3), commit=commit, date=date.today().isoformat(),
                       device=f'{platform.machine()} processor, 1 thread', torch=torch.__version__)
        RESULTS.mkdir(parents=True, exist_ok=True)
        file.with_suffix('.tmp').write_text(json.dumps(result, indent=1) + '\n')
        file.with_suffix('.tmp').rename(file)
        print(f"{file.stem}: {result['end']['bpb']:.4f} bits per byte, {result['end']['routed']:.1%} routed",
              flush=True)

if __name__ == '__main__': main()
