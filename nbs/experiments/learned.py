"""What did it learn? The claims of the original's README, at three sizes, on real stories and on the built-in ones.

    python nbs/experiments/learned.py --data DIR                              # all runs of chapter 20; resumable
    python nbs/experiments/learned.py --data DIR --only nano --corpora russian --minutes 60 --threads 1
    python nbs/experiments/learned.py --data DIR --only nano --corpora russian --minutes 30 --router none
    python nbs/experiments/learned.py --bundled                               # the model that comes along, not trained
    python nbs/experiments/learned.py --card                                  # 10m.md, from the line of the largest

With another router a line has that router's name, too: `none` is a model that never had latent blocks.

A model trains in a run directory under --runs and goes on from its last checkpoint when the command is started again.
Its schedule is that of its minutes, so a longer training is another run. It is validated on the end of the training
text; what a line reports is measured once, at the end, on held-out text: the last tenth, or stories of another seed.

A line says bits per byte with and without the latent blocks, what goes through them by kind of byte, how well that is
where words begin, and a piece of what it writes, both ways. Of what it writes it says how many words exist in the
training text, and how many pairs of neighbours: words are well-formed where the first is high, and make sense together
where the second is. What the held-out text itself gets is the measure of both. Of the built-in stories it also says how
often a fact is remembered that was told at least FAR bytes before.
"""
import re
from dataclasses import asdict
from pathlib import Path

import torch
from common import HERE, LEARNED, SHAPES, before_last, config, new_stories, parse, parser, part, source, stamp, text

from pico.evaluate import bits_per_byte, recall, router_report
from pico.generate import generate
from pico.model import Pico
from pico.record import read_metrics
from pico.router import ROUTERS
from pico.stories import floor, story
from pico.train import TrainConfig, train

FAR, SEED = 200, 7                   # bytes between telling and asking; the seed of the stories that are asked about
DESIGN = LEARNED | dict(positions='relative', latent_summary='yes', latent_shift='yes', heads_every=32)
SIZES = {'nano': SHAPES['nano'] | dict(fb_num_blocks=2, latent_num_blocks=2), 'xs': SHAPES['xs'], '10m': SHAPES['10m']}
RATES = {'nano': 8e-3, 'xs': 6e-3, '10m': 4e-3}
INTERVALS = {'nano': 1000, 'xs': 500, '10m': 200}     # steps between validations, and between checkpoints
PROMPTS = {'stories': 'Once upon a time', 'russian': 'Жила-была'}
# those of chapter 20: size, corpus, minutes, threads, router
RUNS = [('nano', 'russian', 30, 1, None), ('nano', 'russian', 100, 1, None), ('xs', 'russian', 40, 1, None),
        ('xs', 'russian', 120, 1, None), ('10m', 'russian', 120, 1, None), ('10m', 'russian', 145, 2, None),
        ('xs', 'stories', 30, 1, None), ('10m', 'stories', 100, 1, None)]
# what routing brings: each size with its router, and beside it, at the same time, without latent blocks
RUNS += [(size, 'russian', minutes, 1, router)
         for size, minutes in (('nano', 10), ('xs', 20), ('10m', 50)) for router in (None, 'none')]
TEXTS, LENGTH = 16, 600              # that are written to see which words exist, and the bytes of each

def settings(size, minutes, a):
    "How a model of a size is trained."
    return TrainConfig(optimizer='soap', context_len=a.length, batch_size=a.rows, learning_rate=RATES[size],
                       min_lr_ratio=0., warmup_steps=200, average=.97, repeats=a.repeats, max_minutes=minutes,
                       validation_interval=a.interval or INTERVALS[size], validation_bytes=50_000,
                       checkpoint_interval=a.interval or INTERVALS[size])

# --- what is measured

def words_of(text):
    "Its words, in small letters; the last one may be cut off."
    return re.findall(r"\w+", text.lower())[:-1]

def pairs_of(words): return list(zip(words, words[1:], strict=False))

def written(model, prompt, latent, n):
    "Texts, drawn at temperature 0.8."
    options = dict(max_bytes=LENGTH, temperature=.8, latent=latent)
    return [generate(model, prompt, seed=i, **options) for i in range(n)]

def known(corpus):
    "The words of a text and its pairs of neighbours."
    words = words_of(all_of(corpus))
    return set(words), set(pairs_of(words))

def all_of(corpus): return corpus.read(0, corpus.size)[0].tobytes().decode(errors='replace')

def share_known(texts, exist, together):
    "How many words texts have, the share that exists, and the share of their pairs of neighbours that does."
    words = [words_of(t) for t in texts]
    pairs, words = sum(map(pairs_of, words), []), sum(words, [])
    return len(words), share(words, exist), share(pairs, together)

def share(some, of): return sum(x in of for x in some) / max(1, len(some))

def writing(model, corpus, held, prompt, n):
    "How many words and pairs exist of what it writes, with latent blocks and without; a piece of it; the text itself."
    sets, found = known(corpus), {}
    found['words_text'], found['exist_text'], found['pairs_text'] = share_known([all_of(held)], *sets)
    for name, latent in ('on', True), ('off', False):
        texts = written(model, prompt, latent, n)
        shares = share_known([prompt + t.text for t in texts], *sets)
        found |= dict(zip((f'words_{name}', f'exist_{name}', f'pairs_{name}'), shares, strict=True))
        found[f'text_{name}'] = prompt + texts[0].marked()
    return found

def remembered(model, n):
    "What it remembers of stories that it has not seen, with and without latent blocks, and what they cost at least."
    asked = [story(i, SEED) for i in range(n)]
    found = dict(floor=floor(asked))
    for name, latent in ('on', True), ('off', False):
        r = recall(model, asked, latent=latent, far=FAR)
        found |= {f'recall_{name}': r.accuracy, f'recall_{name}_error': r.error, 'facts': r.n, 'chance': r.chance}
    return found

def measured(model, name, corpus, held, many):
    "Everything that a line says of a model."
    model.eval()
    on, off = (bits_per_byte(model, held, many['bytes'], latent=latent) for latent in (True, False))
    report = asdict(router_report(model, held, min(many['bytes'], 50_000)))
    kept = {k: report[k] for k in ('precision', 'recall', 'f1', 'random_f1', 'rates', 'entropy')}
    found = dict(bpb=on.bpb, bpb_off=off.bpb, scored=on.bytes, routed=on.routed_fraction, **kept)
    found |= writing(model, corpus, held, PROMPTS[name], many['texts'])
    if name == 'stories': found |= remembered(model, many['stories'])
    return found

# --- one model

def texts(name, data, smoke):
    "Training text, text to validate on, and held-out text."
    whole = text(name, 'train', data, 100_000 if smoke else 30_000_000)
    if name == 'stories': return whole, new_stories(60, seed=2), new_stories(80, seed=SEED)
    return *before_last(whole, 200_000), text(name, 'validation', data)

def run(size, name, minutes, threads, router, a, many):
    "Train a model as long as it may, and measure it."
    corpus, validation, held = texts(name, a.data, a.smoke)
    other = f'-{router}' if router else ''
    folder = a.runs/f'{size}-{name}-{minutes:g}-{threads}-{a.rows}x{a.length}-{a.repeats:g}{other}'
    shape = config(size, **SIZES[size] | DESIGN | (dict(router=router) if router else {}))
    torch.set_num_threads(threads)
    model = train(folder, corpus, shape, settings(size, minutes, a), validation)
    curve = [(round(m['seconds']), m['step'] * a.rows * a.length, round(m['validation_bpb'], 4))
             for m in read_metrics(folder) if m.get('validation_bpb') is not None]
    return dict(parameters=model.num_parameters(), curve=curve) | measured(model, name, corpus, held, many)

def bundled(a, many):
    "Measure the model that comes along with the package, which learned from the built-in stories."
    corpus, _, held = texts('stories', a.data, a.smoke)
    torch.set_num_threads(a.threads or 1)
    model = Pico.from_pretrained('stories')
    return dict(parameters=model.num_parameters()) | measured(model, 'stories', corpus, held, many)

# --- the card of the largest

CARD = """---
language: ru
license: apache-2.0
library_name: pico-lm
tags: [byte-level, mixture-of-depths, text-generation]
---

# 10m: the model of chapter 20 that learned Russian stories

A byte-level language model of {parameters:,} parameters that tells small stories in Russian. Its design is the preset
`10m`, except that its further heads learned from one byte in {every}: {fb} full-byte blocks before and {fb} after
{latent} latent blocks, which see the bytes that the router `{router}` chooses.

Its weights are not published. The command trains it again. How much text it reads in its minutes is a matter of the
machine.

| | |
|---|---|
| command | `{command}` |
| trained | {minutes:g} minutes, in which it read {read:.0f} MB |
| when and where | {date}, {device} |
| text | {data[source]}; the last tenth is held out |
| sha256 of the text | `{data[sha256]}` |
| held-out text, {scored:,} bytes | {bpb:.4f} bits per byte, causal, context carried |
| the same with the latent blocks off | {bpb_off:.4f} bits per byte |
| bytes through the latent blocks | {routed:.1%} |
| F1 of these and the bytes before words | {f1:.2f} (as many by chance: {random_f1:.2f}) |
| words it writes that exist | {exist_on:.1%}; latent blocks off {exist_off:.1%}; held-out text {exist_text:.1%} |
| pairs of neighbours that exist | {pairs_on:.1%}; latent blocks off {pairs_off:.1%}; held-out text {pairs_text:.1%} |

What exists stands in the training text. What it wrote was drawn at temperature 0.8: {words_on} words with its latent
blocks, and {words_off} without. One seed.

## A sample

The first of the texts that were counted. `_` stands behind each byte that went through the latent blocks:

```
{text_on}
```

The same with the latent blocks off:

```
{text_off}
```

## Limits

It knows small children's stories in translation, and no other texts. It was trained to see what a model of this size
learns in a few hours of a processor. It is no assistant.

## Licence

Apache-2.0, as the package and the text.
"""

def card(r):
    "A model card, from a line of results."
    c = config(r['size'], **SIZES[r['size']] | DESIGN)
    return CARD.format(fb=c.fb_num_blocks, latent=c.latent_num_blocks, router=c.router, every=c.heads_every,
                       read=r['curve'][-1][1] / 1e6, **r)

def largest(results):
    "The line of the largest model's longest training on Russian stories."
    its = [r for r in results.rows() if (r['size'], r['corpus']) == ('10m', 'russian') and 'router' not in r]
    return max(its, key=lambda r: r['minutes'])

def main(args=None):
    p = parser(__doc__)
    p.add_argument('--data', metavar='DIR', help='folder that holds the corpora')
    p.add_argument('--runs', type=Path, default=Path('runs/learned'), metavar='RUNS', help='where the models train')
    p.add_argument('--only', nargs='*', choices=SIZES, default=list(SIZES), metavar='SIZE')
    p.add_argument('--corpora', nargs='*', choices=PROMPTS, default=list(PROMPTS))
    p.add_argument('--minutes', type=float, help='of training; default: as in chapter 20')
    p.add_argument('--threads', type=int, help='default: as in chapter 20')
    p.add_argument('--router', choices=ROUTERS, metavar='ROUTER', help='another one than the default')
    p.add_argument('--repeats', type=float, default=.15, help='of the training: the part in which rows are repeated')
    p.add_argument('--length', type=int, default=2048, help='bytes in a row')
    p.add_argument('--rows', type=int, default=2)
    p.add_argument('--bundled', action='store_true', help='measure the model that comes along, and train none')
    p.add_argument('--card', action='store_true', help='write the card of the largest from its line, and train none')
    p.add_argument('--part', default='0/1', help='i/n: only every n-th model, from the i-th')
    a = parse(p, __file__, args)
    if a.card:
        (HERE/'10m.md').write_text(card(largest(a.results)), encoding='utf-8')
        return
    a.interval, many = None, dict(bytes=200_000, texts=TEXTS, stories=200)
    if a.smoke:
        a.only, a.corpora, a.minutes, a.threads, a.length, a.interval = ['nano'], ['stories'], .005, 2, 128, 2
        a.runs, many = a.results.file.parent/'runs', dict(bytes=500, texts=1, stories=2)
    if 'russian' in a.corpora and not (a.data or a.bundled): p.error('Russian stories need --data DIR')
    if a.bundled: asked = [('bundled', 'stories', None, a.threads or 1, None)]
    elif a.minutes: asked = [(s, c, a.minutes, a.threads or 1, a.router) for s in a.only for c in a.corpora]
    else: asked = [r for r in RUNS if r[0] in a.only and r[1] in a.corpora and a.threads in (None, r[3]) and
                   a.router in (None, r[4])]
    for size, name, minutes, threads, router in part(asked, a.part):
        line = 'the model that comes along'
        if minutes:
            line = (f'{size}, {name}, {minutes:g} minutes of {threads} threads, {a.rows} x {a.length}, '
                    f'repeats {a.repeats:g}' + (f', router {router}' if router else ''))
        if a.results.find(line): continue
        how = {} if a.bundled else dict(minutes=minutes, threads=threads)
        if router: how['router'] = router
        found = bundled(a, many) if a.bundled else run(size, name, minutes, threads, router, a, many)
        a.results.add(dict(name=line, size=size, corpus=name) | how | found |
                      stamp(a.command, source(name, a.data), threads))
        print(f"{line}: {found['bpb']:.4f} bits per byte", flush=True)

if __name__ == '__main__': main()
