"""How fast does it write? Plain, by the clock ('auto', the default of `generate`) and always drafting, taking turns.

    python nbs/experiments/pace.py stories=DIR xs=DIR --prompt "stories=Once upon a time"
    python nbs/experiments/pace.py python=DIR --prompt_file python=FILE      # the prompt is what stands in FILE
    python nbs/experiments/pace.py --smoke --out FILE            # a few bytes of an untrained model: does it run?

A model's directory is what `pico-train` or `save_pretrained` left. One row, processor time of one thread. In each turn
every way writes the same text with the same seed, so ratios within a turn are what to look at. A line is one model;
chapter 12 shows the medians.
"""
import hashlib
import statistics
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from common import config, parse, parser, stamp

from pico.core import InputError
from pico.generate import generate
from pico.speculative import Pace
from pico.model import Pico

TEMPERATURES = 0, .8
WAYS = 'plain', 'auto', 'forced'

def written(model, prompt, n, temperature, seed, way, clock=time.thread_time):
    "Bytes per second of one text, the text, and the ways that `auto` took, in bytes."
    pace = Pace()
    speculative = dict(plain=False, auto=pace, forced=True)[way]
    start = clock()
    g = generate(model, prompt, n, temperature=temperature, seed=seed, ignore_end=True, speculative=speculative)
    seconds = clock() - start
    took = Counter()
    # shorter where a way was not by the clock
    for name, gained in zip(pace.taken, g.accepted[1:], strict=False): took[name] += gained
    return len(g.bytes) / seconds, g, took

def compare(model, prompt, n, turns, temperature, clock=time.thread_time):
    "Speeds of all ways over several turns, and how they compare with plain writing in the same turn."
    rates, passes = ({w: [] for w in WAYS} for _ in range(2))
    took, parted = Counter(), 0
    for turn in range(turns):
        texts = {}
        for k in range(len(WAYS)):
            way = WAYS[(turn + k) % len(WAYS)]                     # another one begins in each turn
            rate, texts[way], ways = written(model, prompt, n, temperature, turn, way, clock)
            rates[way].append(rate)
            passes[way].append(texts[way].forwards / n)
            took += ways
        parted += sum(texts[w].bytes != texts['plain'].bytes for w in WAYS[1:])        # near ties, see chapter 12
    gain = [a/b for a, b in zip(rates['auto'], rates['forced'], strict=True)]
    share = {w: k / sum(took.values()) for w, k in sorted(took.items())}
    return dict(ways={w: figures(rates[w], rates['plain'], passes[w]) for w in rates},
                auto_to_forced=statistics.median(gain), auto_bytes=share, texts_that_part=parted)

def figures(rates, plain, passes):
    "The middle of all turns, and the worst one."
    ratios = [a/b for a, b in zip(rates, plain, strict=True)]
    return dict(bytes_per_second=statistics.median(rates), ratio=statistics.median(ratios), worst=min(ratios),
                passes_per_byte=statistics.median(passes), all_ratios=[round(v, 3) for v in ratios])

def show(name, temperature, r):
    ways = '  '.join(f"{w} {v['bytes_per_second']:7,.0f} bytes/s ({v['ratio']:.2f})" for w, v in r['ways'].items())
    taken = ', '.join(f'{w} {s:.0%}' for w, s in r['auto_bytes'].items())
    print(f"{name:12s} temperature {temperature:<4} {ways}  auto to forced {r['auto_to_forced']:.2f}", flush=True)
    print(f"{'':12s} auto took {taken}; {r['texts_that_part']} texts part at a near tie", flush=True)

def measure(model, name, prompt, n, turns):
    "What is noted of a model, and its speeds at each temperature."
    generate(model, prompt, 100, speculative=True)                 # to warm up
    weights = b''.join(t.numpy().tobytes() for _, t in sorted(model.state_dict().items()))
    found = dict(parameters=model.num_parameters(), config=model.config.to_dict(),
                 weights_sha256=hashlib.sha256(weights).hexdigest(), prompt_bytes=len(prompt),
                 prompt_sha256=hashlib.sha256(prompt).hexdigest(), temperatures={})
    for t in TEMPERATURES:
        # keys of a JSON object are text
        found['temperatures'][str(t)] = compare(model, prompt, n, turns, t)
        show(name, t, found['temperatures'][str(t)])
    return found

def pairs(given, what):
    "NAME=VALUE, several times."
    for v in given:
        if '=' not in v: raise InputError(f"{v!r} should be NAME={what}")
    return dict(v.split('=', 1) for v in given)

def untrained():
    torch.manual_seed(0)
    return Pico(config('nano', dim=24, router='space', latent_carry='yes', heads='chained', heads_every=32)).eval()

def options(args):
    p = parser(__doc__)
    p.add_argument('models', nargs='*', metavar='NAME=DIR', help='models to measure')
    p.add_argument('--prompt', action='append', default=[], metavar='NAME=TEXT', help='how texts begin')
    p.add_argument('--prompt_file', action='append', default=[], metavar='NAME=FILE', help='the same, read from a file')
    p.add_argument('--bytes', type=int, default=2000, help='length of each text (default: 2000)')
    p.add_argument('--turns', type=int, default=7, help='texts for each way and temperature (default: 7)')
    return parse(p, __file__, args, results='writing')

def main(args=None):
    a = options(args)
    models = {n: Pico.from_pretrained(d) for n, d in pairs(a.models, 'DIR').items()}
    if a.smoke: models['smoke'], a.bytes, a.turns = untrained(), 60, 1
    prompts = {n: t.encode() for n, t in pairs(a.prompt, 'TEXT').items()}
    prompts |= {n: Path(f).read_bytes() for n, f in pairs(a.prompt_file, 'FILE').items()}
    unknown = set(prompts) - set(models)
    if unknown: raise InputError(f"{', '.join(sorted(unknown))}: there is a prompt but no model of this name")
    if not models: raise InputError('no model was given: give NAME=DIR, or --smoke')
    how = stamp('python nbs/experiments/pace.py NAME=DIR …') | dict(numpy=np.__version__)
    for name, m in models.items():
        found = measure(m, name, prompts.get(name, b''), a.bytes, a.turns)
        a.results.add(dict(name=f'auto {name}', bytes=a.bytes, turns=a.turns) | found | how)

if __name__ == '__main__':
    try: main()
    except InputError as e: raise SystemExit(f'pace: {e}') from None
