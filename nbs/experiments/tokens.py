"""What a vocabulary buys and what bytes buy: Pico beside a Transformer over BPE tokens and one over bytes.

    python nbs/experiments/tokens.py choose --data DIR --corpora english --seconds 120    # which vocabulary, rows, rate
    python nbs/experiments/tokens.py --data DIR             # the table: three seeds on held-out text
    python nbs/experiments/tokens.py floors --data DIR      # gzip, xz, zstd

All models have about as many numbers as `nano` (tokens are spent on a larger embedding and fewer blocks), the same
optimizer, and the same processor time of one thread; what training the vocabulary and encoding the text takes counts.
The vocabulary, the rows of a step and the rate were chosen on training text.
Scores are bits per byte of the text, whatever the unit. Each is also scored on what it was not made for: text with
typing mistakes, in capitals, in another script, and bytes that are no text. Needs `pip install tokenizers zstandard`.
"""
import gzip
import importlib
import lzma
import math
import os
import random
import re
import time

import numpy as np
import torch
import torch.nn.functional as F
from choices import CHOICES, NAMES, train
from common import NANO_TRAINING, before_last, compiled, follow, parse, parser, part, source, stamp, text
from torch import nn

from pico.block import RMSNorm, Stack
from pico.data import Corpus
from pico.evaluate import bits_per_byte
from pico.soap import SOAP
from pico.train import lr_factor

CORPORA = 'english', 'russian', 'python', 'chinese'
SECONDS, SCORED = 200, 60_000
# vocabulary -> width and blocks, for about 600,000 numbers; 256 = bytes. A processor is faster with few wide blocks.
SIZES = {256: (160, 4), 1024: (160, 3), 2048: (128, 4), 4096: (96, 4), 8192: (64, 3)}
KINDS = 'pico', 'bytes', 'bpe 4096'
NOW = CHOICES[NAMES.index('nano now, memory')]
CANDIDATES = [f'{kind} x {rows} at {rate}' for kind in ('bytes', 'bpe 1024', 'bpe 2048', 'bpe 4096', 'bpe 8192')
              for rows in (4, 8) for rate in (8e-3, 1.6e-2)]
BEST = dict(bytes=(4, 1.6e-2), bpe=(8, 8e-3))                      # rows and rate, as `choose` found

# --- units

class Bytes:
    "Every byte is a unit, and there is one that begins a document."
    size, begin = 257, 256
    def encode(self, data:bytes): return list(data)

class BPE:
    "Merges learned from the training text (Sennrich et al. 2016, arXiv 1508.07909), as GPT-2 has them: over bytes."
    def __init__(self, documents, size):
        os.environ['TOKENIZERS_PARALLELISM'] = 'false'
        its = importlib.import_module('tokenizers')
        level = its.pre_tokenizers.ByteLevel
        self.model = its.Tokenizer(its.models.BPE())
        self.model.pre_tokenizer = level(add_prefix_space=False)
        trainer = its.trainers.BpeTrainer(vocab_size=size, initial_alphabet=level.alphabet(), show_progress=False)
        self.model.train_from_iterator((d.decode('utf-8', 'replace') for d in documents), trainer)
        self.size = size + 1
        self.begin = size
        # one unit for each byte: what stands for it in the alphabet
        self.single = [self.model.token_to_id(c) for c in letters_of_bytes()]

    def encode(self, data:bytes):
        "Text by merges; bytes that are no text one by one."
        out, at = [], 0
        while at < len(data):
            try: good, end = data[at:].decode('utf-8'), len(data)
            except UnicodeDecodeError as e: good, end = data[at:at+e.start].decode('utf-8'), at + e.start
            out += self.model.encode(good).ids
            at = end
            if at < len(data):
                out.append(self.single[data[at]])
                at += 1
        return out

def letters_of_bytes():
    "The 256 letters by which byte-level BPE writes bytes: printable ones as they are, the others from 256 on."
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(b if b in plain else next(others)) for b in range(256)]

# --- a Transformer over units

class Transformer(nn.Module):
    "Blocks as in chapter 04, every unit through all of them, a window as long as the row, rotary positions."
    def __init__(self, units, width, blocks, context):
        super().__init__()
        self.context = context
        self.embedding = nn.Embedding(units, width)
        nn.init.normal_(self.embedding.weight, std=.02)
        self.stack, self.norm = Stack(blocks, width, width // 16, 2, context, 'rope'), RMSNorm(width)

    def forward(self, x): # (B, T) -> (B, T, units)
        return F.linear(self.norm(self.stack(self.embedding(x))), self.embedding.weight)

def stream(units, documents):
    "All documents, each after the unit that begins one."
    return torch.tensor([u for d in documents for u in (units.begin, *units.encode(d))])

def trained(units, shape, context, rows, rate, documents, seconds, seed, began):
    "A Transformer at the end of its time, and its steps."
    data = stream(units, documents)
    torch.manual_seed(seed)
    model, rng = Transformer(units.size, *shape, context), torch.Generator().manual_seed(seed)
    matrices = [p for p in model.stack.parameters() if p.dim() == 2]
    ends = dict(params=[model.embedding.weight], weight_decay=.1, rows=False, max_precond_dim=shape[0])
    vectors = dict(params=[p for p in model.parameters() if p.dim() < 2], weight_decay=0.)
    optimizer = SOAP([dict(params=matrices, weight_decay=.1), vectors, ends], lr=rate)
    weights, step = list(model.parameters()), 0
    average = [p.detach().clone() for p in weights]
    while (spent := time.thread_time() - began) < seconds or step < 2:
        starts = torch.randint(len(data) - context, (rows,), generator=rng)
        some = torch.stack([data[i:i+context+1] for i in starts.tolist()])
        x, y = some[:,:-1], some[:,1:].clone()
        y[y == units.begin] = -100                                # nobody has to guess where a document begins
        for g in optimizer.param_groups: g['lr'] = rate * lr_factor(step, spent / seconds, 50, 'cosine', 0.)
        F.cross_entropy(model(x).flatten(0, 1), y.flatten()).backward()
        nn.utils.clip_grad_norm_(weights, 1.)
        optimizer.step()
        optimizer.zero_grad()
        follow(average, weights, NANO_TRAINING['average'], step)
        step += 1
    with torch.no_grad(): torch._foreach_copy_(weights, average)
    return model.eval(), step

@torch.no_grad()
def bits(model, units, documents):
    "Bits of the documents, and their bytes: windows that overlap by half, of which the new half counts."
    total, half = 0., model.context // 2
    for d in documents:
        data = torch.tensor([units.begin, *units.encode(d)])
        for i in range(0, max(1, len(data) - 1), half):
            first = max(0, i - half)
            x, y = data[first:i+half], data[first+1:i+half+1]
            logits = model(x[None])[0, :len(y)]
            total += F.cross_entropy(logits[i-first:], y[i-first:], reduction='sum').item()
    return total / math.log(2), sum(map(len, documents))

# --- what is trained

def settings(model):
    "'bpe 2048 x 8 at 0.008' -> the kind, rows and rate; what is not said is the best."
    found = re.fullmatch(r'(pico|bytes|bpe (?:1024|2048|4096|8192))(?: x (\d+))?(?: at ([\d.]+))?', model)
    if not found: raise ValueError(f"{model} is no model, expected one like 'pico', 'bytes' or 'bpe 2048 x 4 at 0.008'")
    kind, rows, rate = found.groups()
    best = BEST.get(kind.split()[0], (0, 0))
    return kind, int(rows or best[0]), float(rate or best[1])

def learn(kind, rows, rate, corpus, seconds, seed):
    "`score(documents)` -> bits and bytes, with what is to be said of the model."
    began = time.thread_time()
    documents = list(corpus.documents())
    if kind == 'pico':
        model, steps, _ = train(NOW, corpus, seed, seconds)
        def score(some): return pico_bits(model, some)
    else:
        size = 256 if kind == 'bytes' else int(kind.split()[1])
        units = Bytes() if kind == 'bytes' else BPE(documents, size)
        context = 256 if kind == 'bytes' else 128                 # tokens hold more text
        model, steps = trained(units, SIZES[size], context, rows, rate, documents, seconds, seed, began)
        def score(some): return bits(model, units, some)
    return score, dict(steps=steps, parameters=sum(p.numel() for p in model.parameters()))

def pico_bits(model, documents):
    score = bits_per_byte(model, Corpus.from_bytes(documents))
    return score.bpb * score.bytes, score.bytes

# --- texts that are unlike the training text

def with_mistakes(data, share=.03):
    "Letters exchanged with the one after, left out or doubled, one in thirty."
    text, rng, out, i = data.decode('utf-8', 'surrogateescape'), random.Random(0), [], 0
    while i < len(text):
        what = rng.random() / share
        if what >= 1 or i + 1 == len(text): out.append(text[i])
        elif what < 1/3:
            out += text[i+1], text[i]
            i += 1
        elif what < 2/3: out += text[i], text[i]
        i += 1
    return ''.join(out).encode('utf-8', 'surrogateescape')

def others(name, held_out, data, scored):
    "name -> documents"
    out = {'mistakes': [with_mistakes(d) for d in held_out],
           'capitals': [d.decode('utf-8', 'ignore').upper().encode() for d in held_out],
           'no text': first_bytes(compiled('validation'), scored)}
    other = 'english' if name == 'russian' else 'russian'
    if data: out['another script'] = first_bytes(text(other, 'validation', data), scored)
    return out

def first_bytes(corpus, n):
    "The first documents of a corpus, the last of them cut."
    out = []
    for d in corpus.documents():
        out.append(d[:n])
        n -= len(d)
        if n <= 0: break
    return out

# --- commands

def measure(model, name, seed, a, choosing):
    corpus = text(name, 'train', a.data, 200_000 if a.smoke else None)
    if choosing: corpus, held = before_last(corpus, 200_000)
    else: held = text(name, 'validation', a.data)
    kind, rows, rate = settings(model)
    score, found = learn(kind, rows, rate, corpus, a.seconds, seed)
    some = first_bytes(held, a.scored)
    total, size = score(some)
    if rows: found |= dict(rows=rows, rate=rate)
    found |= dict(model=kind, corpus=name, seed=seed, seconds=a.seconds, bpb=total / size, bytes=size)
    if not choosing:
        found['others'] = {k: np.divide(*score(d)).item() for k, d in others(name, some, a.data, a.scored // 3).items()}
    return found

def floors(name, a):
    "What well-known programs make of the held-out text, alone and after the training text; how long its tokens are."
    zstd = importlib.import_module('zstandard')
    documents = list(text(name, 'train', a.data, 200_000 if a.smoke else None).documents())
    units, some = BPE(documents, int(KINDS[-1].split()[1])), first_bytes(text(name, 'validation', a.data), a.scored)
    train, held = b''.join(documents), b''.join(some)
    filters = [dict(id=lzma.FILTER_LZMA2, preset=9, dict_size=1 << 28)]
    def xz(data): return len(lzma.compress(data, filters=filters))
    packed = dict(gzip=len(gzip.compress(held, 9)), xz=xz(held), zstd=len(zstd.compress(held, 22)))
    packed['xz after the training text'] = xz(train + held) - xz(train)
    return dict(corpus=name, bytes=len(held), bpb={k: 8*v / len(held) for k, v in packed.items()},
                bytes_per_token=len(held) / sum(len(units.encode(d)) for d in some))

def main(args=None):
    p = parser(__doc__)
    p.add_argument('stage', nargs='?', choices=('choose', 'final', 'floors'), default='final')
    p.add_argument('--data', metavar='DIR', help='folder that holds the corpora')
    p.add_argument('--corpora', nargs='*', choices=(*CORPORA, 'stories'), default=CORPORA)
    p.add_argument('--models', nargs='*', metavar='MODEL', help="'pico', 'bytes', 'bpe 4096', 'bpe 4096 x 8 at 0.004'")
    p.add_argument('--seeds', type=int, nargs='*', default=[0, 1, 2])
    p.add_argument('--seconds', type=float, default=SECONDS, help='processor time of a model')
    p.add_argument('--scored', type=int, default=SCORED, help='bytes of text')
    p.add_argument('--part', default='0/1', help='i/n: only every n-th model, from the i-th')
    a = parse(p, __file__, args)
    if a.smoke: a.corpora, a.seeds, a.seconds, a.scored = ['stories'], [0], .5, 2000
    elif not a.data: p.error('--data DIR is needed')
    for model in a.models or ():
        try: settings(model)
        except ValueError as e: p.error(str(e))
    if a.stage == 'floors': asked = [(None, name, None) for name in a.corpora]
    else:
        kinds, seeds = a.models or KINDS, a.seeds
        if a.stage == 'choose': kinds, seeds = a.models or CANDIDATES, [0]
        asked = [(kind, name, seed) for seed in seeds for kind in kinds for name in a.corpora]
    for kind, name, seed in part(asked, a.part):
        model = [] if kind is None else [kind, str(seed), f'{a.seconds:g}']
        row = '-'.join([a.stage, name, *model]).replace(' ', '-')
        if a.results.find(row): continue
        found = floors(name, a) if kind is None else measure(kind, name, seed, a, a.stage == 'choose')
        a.results.add(dict(name=row) | found | stamp(a.command, source(name, a.data)))
        print(row, found, flush=True)

if __name__ == '__main__': main()
