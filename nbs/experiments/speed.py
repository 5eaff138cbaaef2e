"""How fast does it write? Plain, by the clock ('auto', the default of `generate`) and always guessing, taking turns.

    python nbs/12_speed.py stories=DIR xs=DIR --prompt "stories=Once upon a time"
    python nbs/12_speed.py python=DIR --prompt_file python=FILE          # the prompt is what stands in FILE
    python nbs/12_speed.py --smoke --out FILE                    # a few bytes of an untrained model: does it run?

A model's directory is what `pico-train` or `save_pretrained` left. One row, processor time of one thread. In each turn
every way writes the same text with the same seed, so ratios within a turn are what to look at; the medians go to
results/writing/auto.json.
"""
import argparse, hashlib, json, platform, statistics, subprocess, time
from collections import Counter
from datetime import date
from pathlib import Path
import numpy as np, torch
from pico.core import InputError
from pico.generate import Pace, generate
from pico.model import Pico, PicoConfig

HERE = Path(__file__).parent
TEMPERATURES = 0, .8
WAYS = 'plain', 'auto', 'forced'

def written(model, prompt, n, temperature, seed, way):
    "Bytes per second of one text, the text, and the ways that `auto` took, in bytes."
    pace = Pace()
    speculative = dict(plain=False, auto=pace, forced=True)[way]
    start = time.thread_time()
    g = generate(model, prompt, n, temperature=temperature, seed=seed, ignore_end=True, speculative=speculative)
    seconds = time.thread_time() - start
    took = Counter()
    for name, gained in zip(pace.taken, g.accepted[1:]): took[name] += gained
    return len(g.bytes) / seconds, g, took

def compare(model, prompt, n, turns, temperature):
    "Speeds of all ways over several turns, and how they compare with plain writing in the same turn."
    rates, passes, took, parted = {w: [] for w in WAYS}, {}, Counter(), 0
    for turn in range(turns):
        texts = {}
        for k in range(len(WAYS)):                                 # another one begins in each turn
            way = WAYS[(turn + k) % len(WAYS)]
            rate, texts[way], ways = written(model, prompt, n, temperature, turn, way)
            rates[way].append(rate)
            passes.setdefault(way, []).append(texts[way].forwards / n)
            took += ways
        parted += sum(texts[w].bytes != texts['plain'].bytes for w in WAYS[1:])        # near ties, see chapter 12
    out = {}
    for way, r in rates.items():
        ratios = [a/b for a, b in zip(r, rates['plain'])]
        out[way] = dict(bytes_per_second=statistics.median(r), ratio=statistics.median(ratios), worst=min(ratios),
                        passes_per_byte=statistics.median(passes[way]), all_ratios=[round(v, 3) for v in ratios])
    gain = [a/b for a, b in zip(rates['auto'], rates['forced'])]
    share = {w: k / sum(took.values()) for w, k in sorted(took.items())}
    return dict(ways=out, auto_to_forced=statistics.median(gain), auto_bytes=share, texts_that_part=parted)

def show(name, temperature, r):
    ways = '  '.join(f"{w} {v['bytes_per_second']:7,.0f} bytes/s ({v['ratio']:.2f})" for w, v in r['ways'].items())
    taken = ', '.join(f'{w} {s:.0%}' for w, s in r['auto_bytes'].items())
    print(f"{name:12s} temperature {temperature:<4} {ways}  auto to forced {r['auto_to_forced']:.2f}", flush=True)
    print(f"{'':12s} auto took {taken}; {r['texts_that_part']} texts part at a near tie", flush=True)

def pairs(given, what):
    "NAME=VALUE, several times."
    for v in given:
        if '=' not in v: raise InputError(f"{v!r} should be NAME={what}")
    return dict(v.split('=', 1) for v in given)

def untrained():
    torch.manual_seed(0)
    design = dict(router='space', latent_carry='yes', heads='chained', heads_every=32)
    return Pico(PicoConfig.preset('nano', dim=24, **design)).eval()

def commit():
    head = subprocess.run(['git', 'rev-parse', '--short', 'HEAD'], capture_output=True, text=True, cwd=HERE)
    return head.stdout.strip()

def main(args=None):
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('models', nargs='*', metavar='NAME=DIR', help='models to measure')
    p.add_argument('--prompt', action='append', default=[], metavar='NAME=TEXT', help='how texts begin')
    p.add_argument('--prompt_file', action='append', default=[], metavar='NAME=FILE', help='the same, read from a file')
    p.add_argument('--bytes', type=int, default=2000, help='length of each text (default: 2000)')
    p.add_argument('--turns', type=int, default=7, help='texts for each way and temperature (default: 7)')
    p.add_argument('--out', default=HERE/'results'/'writing'/'auto.json', type=Path, help='where the result goes')
    p.add_argument('--smoke', action='store_true', help='a few bytes of an untrained model as well')
    a = p.parse_args(args)
    torch.set_num_threads(1)
    models = {n: Pico.from_pretrained(d) for n, d in pairs(a.models, 'DIR').items()}
    if a.smoke: models['smoke'], a.bytes, a.turns = untrained(), 60, 1
    prompts = {n: t.encode() for n, t in pairs(a.prompt, 'TEXT').items()}
    prompts |= {n: Path(f).read_bytes() for n, f in pairs(a.prompt_file, 'FILE').items()}
    unknown = set(prompts) - set(models)
    if unknown: raise InputError(f"{', '.join(sorted(unknown))}: there is a prompt but no model of this name")
    if not models: raise InputError('no model was given: give NAME=DIR, or --smoke')
    found = {}
    for name, m in models.items():
        prompt = prompts.get(name, b'')
        generate(m, prompt, 100, speculative=True)                 # to warm up
        weights = hashlib.sha256(b''.join(t.numpy().tobytes() for _, t in sorted(m.state_dict().items()))).hexdigest()
        found[name] = dict(parameters=m.num_parameters(), config=m.config.to_dict(), weights_sha256=weights,
                           prompt_bytes=len(prompt), prompt_sha256=hashlib.sha256(prompt).hexdigest(), temperatures={})
        for t in TEMPERATURES:
            found[name]['temperatures'][t] = compare(m, prompt, a.bytes, a.turns, t)
            show(name, t, found[name]['temperatures'][t])
    result = dict(models=found, bytes=a.bytes, turns=a.turns, command='python nbs/12_speed.py NAME=DIR …',
                  commit=commit(), date=date.today().isoformat(), device=f'{platform.machine()} processor, 1 thread',
                  torch=torch.__version__, numpy=np.__version__)
    a.out.parent.mkdir(parents=True, exist_ok=True)
    part = a.out.with_suffix('.tmp')
    part.write_text(json.dumps(result, indent=1) + '\n')
    part.rename(a.out)

if __name__ == '__main__':
    try: main()
    except InputError as e: raise SystemExit(f'12_speed: {e}')
