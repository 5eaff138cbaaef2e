"""Which choices make `nano` learn most in the same time? (LOG.md says what is known so far.)

    python nbs/experiments/choices.py --data DIR                             # all of CHOICES, on stories and in English
    python nbs/experiments/choices.py --data DIR --only 'two heads' --seeds 1 2 --seconds 300

One line is one model. All get the same processor time of one thread, and their learning rate falls as that is spent, so
what costs more time takes fewer steps; the time to count for the router and to score is not part of it. They are scored
on the ninth of the training text before the held-out text, or on stories of another seed, never on the held-out text.
(Chapters 11, 21 and 21a use the same stories for models of before.) `nano` as it was is
in every list, for machines differ.
"""
import time
from dataclasses import dataclass, field

import torch
from common import LEARNED, LENGTH, ROWS, SHAPES, before_last, config, new_stories, parse, parser, part, source
from common import follow, stamp, text, train_step

from pico.batches import batch, repeated
from pico.evaluate import bits_per_byte
from pico.model import Pico
from pico.soap import SOAP
from pico.train import TrainConfig, lr_factor, make_optimizer

SECONDS = 150                        # of one thread
CORPORA = 'stories', 'english', 'russian', 'python'
FIRST = LEARNED | dict(heads_every=32)  # `nano` as it was

@dataclass
class Choice:
    "What is other than in `nano` as it was."
    name:str
    shape:dict = field(default_factory=dict)       # fields of `PicoConfig`
    settings:dict = field(default_factory=dict)    # fields of `TrainConfig`
    soap:dict = field(default_factory=dict)        # settings of all groups of SOAP
    still:bool = False                             # the blocks begin by adding nothing
    far:bool = False                               # in latent blocks distances count a twentieth at first

TWO = dict(fb_num_blocks=2, latent_num_blocks=2)
NOW = TWO | dict(positions='relative')
END = dict(average=.97, min_lr_ratio=0)
MEMORY = dict(latent_summary='yes', latent_shift='yes')
APART = dict(document_borders='yes')
XS = SHAPES['xs'] | dict(positions='relative', heads_every=16)
ROWS_OF_2048 = dict(batch_size=1, context_len=2048)
CHOICES = [
    Choice('nano'),
    # batches and rates
    Choice('2 rows', settings=dict(batch_size=2)),
    Choice('8 rows', settings=dict(batch_size=8)),
    Choice('rows of 256', settings=dict(batch_size=8, context_len=256)),
    Choice('rows of 1024', settings=dict(batch_size=2, context_len=1024)),
    Choice('rate 0.004', settings=dict(learning_rate=4e-3)),
    Choice('rate 0.012', settings=dict(learning_rate=1.2e-2)),
    # schedule
    Choice('down to 0', settings=dict(min_lr_ratio=0)),
    Choice('down to 0, rate 0.012', settings=dict(learning_rate=1.2e-2, min_lr_ratio=0)),
    Choice('wsd', settings=dict(schedule='wsd')),
    Choice('average 0.97', settings=dict(average=.97)),
    Choice('warm-up 150', settings=dict(warmup_steps=150)),
    # heads
    Choice('one head', dict(next_tokens=1)),
    Choice('two heads', dict(next_tokens=2)),
    # shape
    Choice('64 wide', dict(dim=64, att_q_heads=4, att_kv_heads=2)),
    Choice('128 wide', dict(dim=128, att_q_heads=8, att_kv_heads=2)),
    Choice('2 latent blocks', dict(latent_num_blocks=2)),
    Choice('5 latent blocks', dict(latent_num_blocks=5)),
    Choice('2 full-byte blocks', dict(fb_num_blocks=2)),
    Choice('capacity 1/4', dict(latent_capacity_factor=1/4)),
    Choice('capacity 1/8', dict(latent_capacity_factor=1/8)),
    Choice('windows of 8', dict(fb_att_window_size=8)),
    Choice('windows of 32', dict(fb_att_window_size=32)),
    # the optimizer
    Choice('bases every 20 steps', soap=dict(precondition_frequency=20)),
    Choice('bases of columns alone', soap=dict(rows=False)),
    Choice('decay 0.01', settings=dict(weight_decay=.01)),
    Choice('still at first', still=True),
    # what looked good, together
    Choice('average, down to 0', settings=END),
    Choice('2 and 2 blocks', TWO),
    Choice('2 and 2 blocks, average, down to 0', TWO, END),
    Choice('2 and 2 blocks, 2 heads, average, down to 0', TWO | dict(next_tokens=2), END),
    # around that
    Choice('3 and 1 blocks, average, down to 0', dict(fb_num_blocks=3, latent_num_blocks=1), END),
    Choice('2 and 2 blocks, windows of 8, average, down to 0', TWO | dict(fb_att_window_size=8), END),
    # that with positions that are learned: `nano` as it is
    Choice('nano now', NOW, END),
    # how its training ends
    Choice('nano now, down to a tenth', NOW, dict(average=.97)),
    Choice('nano now, wsd', NOW, END | dict(schedule='wsd')),
    Choice('nano now, rotary', NOW | dict(positions='rope'), END),
    Choice('nano now, 1 and 3 blocks', NOW | dict(fb_num_blocks=1, latent_num_blocks=3), END),
    Choice('nano now, windows of 8', NOW | dict(fb_att_window_size=8), END),
    Choice('nano now, windows of 24', NOW | dict(fb_att_window_size=24), END),
    # its routers
    Choice("nano now, SpaceByte's rule", NOW | dict(router='space'), END),
    Choice('nano now, top-k', NOW | dict(router='topk', latent_carry='no'), END),
    Choice('nano now, none deep', NOW | dict(router='none'), END),
    # latent blocks that remember (LOG.md, "Memory that works"), and repeats while they learn to
    Choice('nano now, rows of 2048', NOW, END | ROWS_OF_2048),
    Choice('nano now, memory', NOW | MEMORY, END),
    Choice('nano now, memory, far at first', NOW | MEMORY, END, far=True),
    Choice('nano now, summary', NOW | dict(latent_summary='yes'), END),
    Choice('nano now, shifted', NOW | dict(latent_shift='yes'), END),
    Choice('nano now, memory, rows of 2048', NOW | MEMORY, END | ROWS_OF_2048),
    Choice('nano now, memory, rows of 2048, repeats', NOW | MEMORY, END | ROWS_OF_2048 | dict(repeats=.3)),
    Choice('nano now, memory, one row of 512', NOW | MEMORY, END | dict(batch_size=1)),
    Choice('nano now, memory, rows of 1024, repeats', NOW | MEMORY,
           END | dict(batch_size=2, context_len=1024, repeats=.3)),
    # whether a byte looks beyond the document it stands in
    Choice('nano now, memory, documents apart', NOW | MEMORY | APART, END),
    Choice('nano now, memory, rows of 2048, repeats, documents apart', NOW | MEMORY | APART,
           END | ROWS_OF_2048 | dict(repeats=.3)),
    # its routers, once more
    Choice("nano now, memory, SpaceByte's rule", NOW | MEMORY | dict(router='space'), END),
    Choice('nano now, memory, top-k', NOW | MEMORY | dict(router='topk', latent_carry='no'), END),
    # is it the same for a model of twelve latent blocks?
    Choice('xs now', XS, END | dict(learning_rate=4e-3)),
    Choice('xs now, memory', XS | MEMORY, END | dict(learning_rate=4e-3)),
]
NAMES = [c.name for c in CHOICES]

def begin(choice, corpus, seed):
    "A model, its optimizer, and how it is trained."
    how = dict(context_len=LENGTH, batch_size=ROWS, learning_rate=8e-3, warmup_steps=50)
    settings = TrainConfig(optimizer='soap', **how | choice.settings)
    torch.manual_seed(seed)
    model = Pico(config('nano', **FIRST | choice.shape)).train()
    model.latent.router.begin(corpus)
    if choice.still:
        for stack in (model.fb_in, model.latent, model.fb_out):
            for block in stack.blocks:
                torch.nn.init.zeros_(block.att.proj.weight)
                torch.nn.init.zeros_(block.glu.fc2.weight)
    if choice.far:
        for block in model.latent.blocks: block.att.slopes.div_(20)
    optimizer = make_optimizer(model, settings)
    if choice.soap: optimizer = SOAP([g | choice.soap for g in optimizer.param_groups])
    return model, optimizer, settings

def train(choice, corpus, seed, seconds, look=None):
    """A model at the end of its time, the steps that it took, and the bytes that it saw. `look` sees the model once
    more before the average takes the place of its weights."""
    model, optimizer, s = begin(choice, corpus, seed)
    weights = list(model.parameters())
    average = [p.detach().clone() for p in weights]
    step, start = 0, time.thread_time()
    while (spent := time.thread_time() - start) < seconds:
        x, y = batch(corpus, step, s.batch_size, s.context_len, model.config.next_tokens, seed)
        if spent < s.repeats * seconds:
            x, y = repeated(x, y, range(step * s.batch_size, (step+1) * s.batch_size), seed)
        factor = lr_factor(step, spent / seconds, s.warmup_steps, s.schedule, s.min_lr_ratio)
        train_step(model, optimizer, x, y, s.learning_rate * factor)
        if s.average: follow(average, weights, s.average, step)
        step += 1
    if s.average:
        if look: look(model.eval())
        with torch.no_grad(): torch._foreach_copy_(weights, average)
    return model.eval(), step, step * s.batch_size * s.context_len

def texts(name, data, smoke=False):
    "Training text, and text to choose by."
    if name == 'stories': return text('stories', limit=100_000 if smoke else None), new_stories(60, seed=2)
    return before_last(text(name, 'train', data), 100_000)

def run(choice, name, seed, data, seconds, scored=60_000, smoke=False):
    corpus, held_out = texts(name, data, smoke)
    plain = {}                                                    # what the weights score where an average is kept
    def look(model): plain['weights_bpb'] = bits_per_byte(model, held_out, scored).bpb
    model, steps, seen = train(choice, corpus, seed, seconds, look)
    score = bits_per_byte(model, held_out, scored)
    return dict(choice=choice.name, corpus=name, seed=seed, seconds=seconds, bpb=score.bpb, steps=steps, bytes=seen,
                routed=score.routed_fraction, parameters=model.num_parameters()) | plain

def main(args=None):
    p = parser(__doc__)
    p.add_argument('--data', metavar='DIR', help='folder that holds the corpora')
    p.add_argument('--corpora', nargs='*', choices=CORPORA, default=CORPORA[:2])
    p.add_argument('--only', nargs='*', choices=NAMES, metavar='CHOICE', default=NAMES, help='a name in CHOICES')
    p.add_argument('--seeds', type=int, nargs='*', default=[0])
    p.add_argument('--seconds', type=float, default=SECONDS, help='processor time of a model')
    p.add_argument('--part', default='0/1', help='i/n: only every n-th model, from the i-th')
    a = parse(p, __file__, args)
    if a.smoke: a.corpora, a.seconds = ['stories'], .2
    elif set(a.corpora) - {'stories'} and not a.data: p.error('texts other than the stories need --data DIR')
    asked = [(name, corpus, seed) for seed in a.seeds for name in a.only for corpus in a.corpora]
    for name, corpus, seed in part(asked, a.part):
        row = f'{corpus}-{name}-{seed}-{a.seconds:g}'.replace(' ', '-')
        if a.results.find(row): continue
        found = run(CHOICES[NAMES.index(name)], corpus, seed, a.data, a.seconds, 2000 if a.smoke else 60_000, a.smoke)
        a.results.add(dict(name=row) | found | stamp(a.command, source(corpus, a.data)))
        print(f"{row}: {found['bpb']:.4f} bits per byte, {found['steps']:,} steps", flush=True)

if __name__ == '__main__': main()
