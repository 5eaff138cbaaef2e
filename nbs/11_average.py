"""Is an average of the weights a better model than the weights themselves? One cell = one run; its result is one small JSON file.

    python nbs/11_average.py                                # the built-in stories
    python nbs/11_average.py --text FILE --source NAME      # another text; NAME says where it is from

Cells that are done are skipped. Every run keeps running averages (EMA) of several lengths beside the weights, so all are compared at exactly the same steps;
what an average costs in processor time is measured and reported as a fraction of a step.
"""
import argparse, hashlib, json, platform, sys, time
from datetime import date
from pathlib import Path
import torch
from pico.data import Corpus
from pico.batches import batch
from pico.sources import load_corpus
from pico.evaluate import bits_per_byte
from pico.model import Pico, PicoConfig
from pico.stories import story
from pico.train import TrainConfig, backward, make_optimizer, rate

RESULTS = Path(__file__).parent/'results'/'training'
STEPS, ROWS, LENGTH, RATE, WARMUP, DECAYS = 1000, 4, 512, 8e-3, 50, (.9, .97, .99, .995, .998)

# written out here, so that these results keep their meaning whatever the presets of the library become
DESIGN = dict(router='topk', latent_carry='no', heads='linear', heads_every=1)

def config(preset='nano'):
    "The model that is measured: a shape of the library, the design of its first presets."
    return PicoConfig.preset(preset, **DESIGN)

def run(train, held_out, schedule, seed, steps=STEPS):
    "Train one nano; returns held-out bits per byte of the weights and of each average, and the cost of one average."
    torch.manual_seed(seed)
    model = Pico(config()).train()
    optimizer = make_optimizer(model, TrainConfig(learning_rate=RATE, optimizer='adamw'))
    own, averages = list(model.parameters()), {d: [p.detach().clone() for p in model.parameters()] for d in DECAYS}
    step_time = average_time = 0.
    for step in range(steps):
        start = time.thread_time()
        for group in optimizer.param_groups: group['lr'] = RATE * rate(step, step/steps, WARMUP, schedule)
        backward(model, [batch(train, step, ROWS, LENGTH, model.config.next_tokens, seed)])
        torch.nn.utils.clip_grad_norm_(own, 1.)
        optimizer.step()
        optimizer.zero_grad()
        model.router_state_step()
        step_time += time.thread_time() - start
        for d, average in averages.items():
            start = time.thread_time()
            # short at first, when the weights still travel
            with torch.no_grad(): torch._foreach_lerp_(average, own, 1 - min(d, (1 + step)/(10 + step)))
            average_time += time.thread_time() - start
    score = lambda: bits_per_byte(model.eval(), held_out, 100_000).bpb
    scores = {'weights': score()}
    for d, average in averages.items():
        with torch.no_grad(): torch._foreach_copy_(own, average)
        scores[str(d)] = score()
    return scores, average_time / len(DECAYS) / step_time

if __name__ == '__main__':
    p = argparse.ArgumentParser()
    p.add_argument('--text')
    p.add_argument('--source', default='the built-in stories; held out: seed 2')
    p.add_argument('--seeds', type=int, default=3)
    a = p.parse_args()
    RESULTS.mkdir(parents=True, exist_ok=True)
    if a.text: train, held_out = load_corpus(a.text, 'train'), load_corpus(a.text, 'validation')
    else:
        train, held_out = load_corpus('stories', 'train'), Corpus.from_bytes([story(i, seed=2).text.encode()
                                                                              for i in range(120)])
    name = Path(a.text).stem if a.text else 'stories'
    for seed in range(a.seeds):
        for schedule in ('cosine', 'wsd', 'constant'):
            file = RESULTS/f'average-{name}-{schedule}-{seed}.json'
            if file.exists(): continue
            scores, cost = run(train, held_out, schedule, seed)
            file.write_text(json.dumps(dict(corpus=name, source=a.source,
                                            sha256=hashlib.sha256(Path(a.text).read_bytes()).hexdigest() if a.text
                                            else None, schedule=schedule, seed=seed, steps=STEPS,
                bytes_per_step=ROWS*LENGTH, learning_rate=RATE, bits_per_byte=scores, cost_of_average=cost,
                command=f'python nbs/11_average.py{" --text FILE" if a.text else ""}',
                date=str(date.today()), torch=torch.__version__, threads=torch.get_num_threads(),
                machine=platform.machine()), indent=1) + '\n')
            print(file.name, {k: round(v, 4) for k,v in scores.items()}, f'{cost:.2%}', flush=True)
