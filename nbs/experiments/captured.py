"""One pass over T bytes that always does the same: the same shapes at the same addresses, so that a CUDA graph can hold
it and one call repeats it. (For gpu.py.)

The package's cache asks how many bytes were routed before it goes on, so a graph cannot hold it. Here every byte goes
through the latent blocks, and what a byte that was not routed gets there is thrown away. Positions are tensors, and a
ring keeps the last window + T keys. No rotary positions. Without a GPU the same pass runs step by step.
"""
import torch
import torch.nn.functional as F

from pico.alibi import distance_bias
from pico.attention import grouped
from pico.data import MARKS

class FixedStack:
    "The blocks of a `Stack` with rings of their own, for rows whose bytes may be left out."
    def __init__(self, stack, rows, T):
        self.blocks, self.T = stack.blocks, T
        if not len(self.blocks): return
        att = self.blocks[0].att
        if att.rotary: raise ValueError('rotary positions cannot be captured here: take a model with ALiBi')
        (self.H, self.G), self.window = att.heads, att.window
        self.slopes = stack.slopes().detach()
        self.shift = int(att.shift)                               # a value stands beside the key of the byte before
        self.R, device = att.window + T + self.shift, self.slopes.device
        # (rows, 2G, R + 1, K) of each block; the last slot takes in what nobody will look at
        self.rings = [self.slopes.new_zeros(rows, 2*self.G, self.R + 1, att.width) for _ in self.blocks]
        self.slot = torch.arange(self.R, device=device)
        self.seen = torch.zeros(rows, dtype=torch.long, device=device)

    def begin(self):
        "Forget everything."
        if not len(self.blocks): return
        self.seen.zero_()
        for ring in self.rings: ring.zero_()

    def bias(self, at): # at: (B, T) positions
        "(B, G, H/G·T, R): what distance adds to the scores, and which slots hold nothing that may be seen."
        last = at[:,-1:]
        held = last - (last - self.slot) % self.R                 # (B, R) the latest position that a slot can hold
        back = at[:,:,None] - held[:,None]                        # (B, T, R)
        hide = (back < 0) | (back > self.window) | (held[:,None] < 0)
        bias = distance_bias(self.slopes, back)                   # (B, H, T, R)
        bias = bias.masked_fill(hide[:,None], torch.finfo(bias.dtype).min / 2)
        return bias.view(len(at), self.G, -1, self.R)

    def __call__(self, x, chosen): # (B, T, D), (B, T) bool
        "All blocks; a byte that is not chosen leaves no trace in the rings."
        if not len(self.blocks): return x
        at = self.seen[:,None] + chosen.cumsum(1) - 1             # (B, T) its own position, or that of the last chosen
        to = [torch.where(chosen, (at + d) % self.R, self.R) for d in (self.shift, 0)]       # of keys and of values
        bias = self.bias(at)
        for block, ring in zip(self.blocks, self.rings, strict=True): x = self.block(block, ring, x, to, bias)
        self.seen += chosen.sum(1)
        return x

    def block(self, block, ring, x, to, bias):
        (B, T, _), G, att = x.shape, self.G, block.att
        qkv = F.linear(block.norm1(x), att.fused_qkv.weight).view(B, T, -1, att.width).transpose(1, 2)
        q, *kv = qkv.split((self.H, G, G), 1)                     # (B, H, T, K), twice (B, G, T, K)
        for part, slots, new in zip(ring.split(G, 1), to, kv, strict=True):
            part.scatter_(2, slots[:,None,:,None].expand_as(new), new)
        keys, values = ring[:,:,:-1].split(G, 1)                  # (B, G, R, K) each
        out = F.scaled_dot_product_attention(grouped(q, G), keys, values, attn_mask=bias).view(q.shape)
        x = x + F.linear(out.transpose(1, 2).reshape(B, T, -1), att.proj.weight)
        return x + block.glu(block.norm2(x))

def carried(change, chosen, before):
    "As `pico.depth.carried`, of changes that are not packed: shapes must not depend on how many bytes were chosen."
    place = torch.arange(chosen.shape[1], device=chosen.device)
    last = torch.where(chosen, place, -1).cummax(1).values
    change = change.gather(1, last.clamp(min=0)[...,None].expand_as(change))
    return torch.where((last >= 0)[...,None], change, before[:,None])

class Captured:
    "A `Pico` that reads T bytes of each row at once. `x` are the bytes, `logits` and `routed` what comes of them."
    @torch.no_grad()
    def __init__(self, model, T=1, rows=1):
        p, D = model.embedding.weight, model.config.dim
        def whole(*shape): return torch.zeros(*shape, dtype=torch.long, device=p.device)
        self.model, self.graph = model, None
        self.stacks = [FixedStack(s, rows, T) for s in (model.fb_in, model.latent, model.fb_out)]
        self.x, self.position = whole(rows, T), whole(rows, T)
        self.before = whole(rows, model.latent.memory)
        self.recent = whole(rows, model.latent.memory) > 0        # which of these were routed
        self.last = p.new_zeros(rows, D)                          # what the last routed byte hands on
        self.logits, self.routed = p.new_zeros(rows, T, 256), whole(rows, T) > 0
        self.begin()

    def begin(self):
        "Forget everything."
        for s in self.stacks: s.begin()
        self.before.fill_(-1)
        self.recent.fill_(False)
        self.last.zero_()
        self.position.copy_(torch.arange(self.x.shape[1], device=self.x.device).expand_as(self.x))

    def once(self):
        "What is repeated."
        model, (fb_in, latent, fb_out), every = self.model, self.stacks, torch.ones_like(self.routed)
        h = fb_in(model.embedding(self.x), every)
        (_, T), M, router = self.x.shape, self.before.shape[1], model.latent.router
        route = router(h, self.x, self.before[:, M - router.memory:], self.position)
        known, flags = torch.cat([self.before, self.x], 1), torch.cat([self.recent, route.chosen], 1)
        into = h
        if model.latent.summary is not None:
            places = (M + torch.arange(T, device=h.device)).expand_as(self.x)
            into = h + model.latent.summary(known, flags, places)
        factor, change = router.factor(route), latent(into, route.chosen) - into
        if factor is not None: change = factor[...,None] * change
        if model.latent.carry is None: y = torch.where(route.chosen[...,None], h + change, h)
        else:
            given = carried(change, route.chosen, self.last)
            y = model.latent.hand_on(h, given, route.chosen)
            self.last.copy_(given[:,-1])
        self.logits.copy_(model.unembedding(model.norm(fb_out(y, every)), 1)[...,0,:])
        self.routed.copy_(route.chosen)
        self.before.copy_(known[:, T:])
        self.recent.copy_(flags[:, T:])
        self.position += T

    @torch.no_grad()
    def capture(self):
        "Put the pass into a CUDA graph."
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(3): self.once()                        # libraries ask for their memory the first time
        torch.cuda.current_stream().wait_stream(aside)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph): self.once()
        self.begin()

    @torch.no_grad()
    def read(self):
        "The next T bytes of each row, which stand in `x`."
        if self.graph is None: self.once()
        else: self.graph.replay()

    @torch.no_grad()
    def write(self, prompt, n): # bytes, and how many; yields bytes
        "Always the likeliest byte; T and rows are 1. An opening mark comes first."
        opening, _ = MARKS[self.model.config.marks]
        self.begin()
        for b in opening + prompt:
            self.x.fill_(b)
            self.read()
        for _ in range(n):
            self.x.copy_(self.logits.argmax(-1))
            yield int(self.x)
            self.read()

if __name__ == '__main__': print(__doc__)                         # gpu.py runs it
