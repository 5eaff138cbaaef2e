"""The others, each from its public code and in a process of its own. (For speed.py.)

    python nbs/experiments/peers.py original DIR --text FILE               # seconds of a training step
    python nbs/experiments/peers.py nanogpt DIR --text FILE                # its recipe for a processor
    python nbs/experiments/peers.py megabyte DIR --text FILE --seconds 300 # trained for so long

DIR is a copy of github.com/loristns/pico, github.com/karpathy/nanoGPT or github.com/kjslag/spacebyte, FILE an English
text. Nothing of their code is here. What a copy imports and does not need on a processor is stood in for by an empty
module, and FlashAttention, which needs a GPU, by PyTorch's attention with the same mask. The original also imports
einops and pydantic. Prints one JSON object.
"""
import argparse
import importlib
import importlib.util
import json
import math
import sys
import time
from functools import lru_cache
from pathlib import Path
from types import ModuleType

import torch
import torch.nn.functional as F

ROWS, LENGTH = 8, 1024                                            # of a batch: 8,192 bytes

def stand_in(*names):
    "Empty modules where there are none of these names."
    for name in names:
        if name not in sys.modules and importlib.util.find_spec(name) is None: sys.modules[name] = ModuleType(name)

def divided(file):
    "Training text and the last tenth, for the others as for Pico."
    data = Path(file).read_bytes()
    cut = len(data) * 9 // 10
    return data[:cut], data[cut:]

def parts(file):
    "Both as tensors."
    return (torch.frombuffer(bytearray(part), dtype=torch.uint8).long() for part in divided(file))

def rows(data, n, length, generator):
    "n pieces of a text that begin anywhere."
    starts = torch.randint(len(data) - length, (n,), generator=generator)
    return torch.stack([data[i:i+length] for i in starts.tolist()])

# --- the original

@lru_cache
def mask(T, window, slopes):
    back = torch.arange(T)[:,None] - torch.arange(T)
    return torch.where((back >= 0) & (back <= window), -torch.tensor(slopes)[:,None,None] * back, -torch.inf)

def masked_attention(q, k, v, causal, window_size, alibi_slopes):
    "What flash_attn_func does, on PyTorch's attention. q (B, T, H, K), k and v (B, T, G, K)."
    T, H = q.shape[1:3]
    bias = mask(T, window_size[0], tuple(alibi_slopes.tolist()))
    q, k, v = (x.transpose(1, 2).repeat_interleave(H // x.shape[2], 1) for x in (q, k, v))
    # with a mask of four dimensions PyTorch takes the way that stores no scores, three times as fast here
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias.expand(len(q), -1, -1, -1)).transpose(1, 2)

def original(folder, text, steps=20, size=(ROWS, LENGTH)):
    "A step of the original: its XS with dim 144, its SOAP and its loss, in float32, which is faster here."
    stand_in('flash_attn', 'wandb', 'typer')
    sys.modules['flash_attn'].flash_attn_func = masked_attention
    torch.Tensor.cuda = lambda self, *args: self
    torch.compile = lambda f: f                                   # of the loss alone
    sys.path.insert(0, str(Path(folder)/'src'))
    its, own = importlib.import_module('pico.model'), importlib.import_module('pico.train')
    torch.manual_seed(0)
    model = its.Pico(its.PICO_XS_PRESET.model_copy(update=dict(dim=144))).train()
    groups = [dict(params=[p for p in model.parameters() if p.dim() >= 2], weight_decay=.1),
              dict(params=[p for p in model.parameters() if p.dim() < 2], weight_decay=0.)]
    optimizer, data, random = own.SOAP(groups, lr=1e-3), next(parts(text)), torch.Generator().manual_seed(0)
    def step():
        some = rows(data, size[0], size[1] + 8, random)
        found, weights, decisions, _ = model(some[:,:size[1]])
        targets = some[:,1:].unfold(1, size[1], 1).transpose(1, 2)
        loss = own.loss_fn(found, weights, decisions, targets)[0]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    for _ in range(3): step()                                     # the first makes the bases
    start = time.perf_counter()
    for _ in range(steps): step()
    return dict(seconds=(time.perf_counter() - start) / steps, parameters=sum(p.numel() for p in model.parameters()))

# --- nanoGPT

def nanogpt(folder, text, steps=2000):
    "The recipe of its README for a processor, and the loss over the whole last tenth in windows of 64."
    sys.path.insert(0, str(folder))
    its = importlib.import_module('model')
    train, held_out = parts(text)
    values, random = train.unique(), torch.Generator().manual_seed(0)
    train, held_out = (torch.searchsorted(values, t) for t in (train, held_out))   # its unit is the character
    torch.manual_seed(1337)
    model = its.GPT(its.GPTConfig(block_size=64, vocab_size=len(values), n_layer=4, n_head=4, n_embd=128, dropout=0.,
                                  bias=False))
    optimizer = model.configure_optimizers(.1, 1e-3, (.9, .99), 'cpu')
    start = time.perf_counter()
    for i in range(steps):
        down = 1e-4 + 4.5e-4 * (1 + math.cos(math.pi * (i - 100) / max(1, steps - 100)))
        for g in optimizer.param_groups: g['lr'] = down if i >= 100 else 1e-3 * (i + 1) / 101
        some = rows(train, 12, 65, random)
        model(some[:,:-1], some[:,1:].contiguous())[1].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    seconds = time.perf_counter() - start
    def nats(x): return model(x[:,:-1], x[:,1:].contiguous())[1].item() * x[:,1:].numel()
    return dict(seconds=seconds, nats=over(model, held_out, 64, nats), parameters=model.get_num_params(False))

@torch.no_grad()
def over(model, held_out, length, nats, at_once=64):
    "The mean loss of a text in pieces side by side, each with the byte before its first."
    model.eval()
    n = (len(held_out) - 1) // length
    whole = held_out[:n*length + 1].unfold(0, length + 1, length)
    return sum(nats(some) for some in whole.split(at_once)) / (n * length)

# --- MegaByte, SpaceByte and a Transformer over bytes, from one repository

def its_models(folder):
    "Its models by name: a function of the context that makes one."
    stand_in('tiktoken', 'sentencepiece', 'psutil')
    sys.path.insert(0, str(folder))
    def make(module, name, **shape):
        # what comes before a piece is 255, which no text holds
        def of(T, **more):
            its = importlib.import_module(module)
            more |= dict(vocab_size=256, BOS=255, context_size=T, tie_embedding=False)
            return getattr(its, name)(getattr(its, f'{name}Config')(**shape | more))
        return of
    small = dict(d_model=128, n_layers=2, d_local=96, n_local_layers=2, d_key=32)
    return dict(megabyte=make('megabyte', 'MegaByte', d_model=256, d_local=128, n_layers=2, n_local_layers=4),
                small_megabyte=make('megabyte', 'MegaByte', **small),
                # rotary positions: with learned ones alone these two learn far less in a minute
                spacebyte=make('spacebyte', 'SpaceByte', n_initial_layers=1, local_attention_window=64, rope=True,
                               **small),
                transformer=make('transformer', 'Transformer', d_model=128, n_layers=3, d_key=32, rope=True,
                                 position_encoding=False))

def repository(folder, name, train, seconds, size=(ROWS, LENGTH), clock=time.perf_counter, times=1., seed=0, **shape):
    "One of its models after so long at so many times its own rate, the nats of a row's bytes, and what was done."
    torch.manual_seed(seed)
    model = its_models(folder)[name](size[1], **shape).train()
    groups = [dict(params=[p], lr_mult=getattr(p, 'lr_mult', 1), weight_decay=.01 * getattr(p, 'weight_decay_mult', 1))
              for p in model.parameters()]
    rate, random = times * .5e-2 * size[0]**.5, torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(groups, lr=rate, betas=(.9, .98))
    def nats(rows): # (B, T) -> (B, T), each byte's
        begin = rows.new_full((len(rows), 1), 255)
        logits = model(torch.cat([begin, rows[:,:-1]], 1), rows.clone())[0]
        return F.cross_entropy(logits.flatten(0, 1), rows.flatten(), reduction='none').view(rows.shape)
    start, step, done = clock(), 0, 0.
    while done < 1:
        # a hundredth of the time is warm-up
        for g in optimizer.param_groups: g['lr'] = rate * g['lr_mult'] * min(math.cos(math.pi/2 * done), 100*done + .01)
        nats(rows(train, *size, random)).mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step, done = step + 1, (clock() - start) / seconds
    done = dict(steps=step, bytes=step * size[0] * size[1], parameters=sum(p.numel() for p in model.parameters()))
    return model.eval(), nats, done

def megabyte(folder, text, seconds=300., size=(ROWS, LENGTH)):
    "Trained for so long, and bits per byte of the last tenth in pieces side by side."
    train, held_out = parts(text)
    model, nats, done = repository(folder, 'megabyte', train, seconds, size)
    loss = over(model, held_out, size[1], lambda x: nats(x[:,1:]).sum().item(), at_once=size[0])
    return dict(steps=done['steps'], bpb=loss / math.log(2), parameters=done['parameters'])

PEERS = dict(original=original, nanogpt=nanogpt, megabyte=megabyte)

def main(args=None):
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('peer', choices=PEERS)
    p.add_argument('folder', metavar='DIR', help='a copy of its repository')
    p.add_argument('--text', required=True, metavar='FILE')
    p.add_argument('--seconds', type=float, default=300.)
    p.add_argument('--steps', type=int, help='of a short run, to see that it works')
    a = p.parse_args(args)
    more = dict(steps=a.steps) if a.steps else {}
    if a.peer == 'megabyte': more = dict(seconds=a.seconds)
    print(json.dumps(PEERS[a.peer](a.folder, a.text, **more)))

if __name__ == '__main__': main()
