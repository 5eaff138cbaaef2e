'use strict'

function half(h) {                                   // the number that 16 bits stand for: sign, 5 bits of exponent, 10
  const sign = h & 0x8000 ? -1 : 1, e = h >> 10 & 31, f = h & 1023
  if (e === 31) return f ? NaN : sign * Infinity
  return e ? sign * (1 + f / 1024) * 2 ** (e - 15) : sign * f * 2 ** -24
}

function unpack(data, part) {                        // bytes of a tensor -> Float32Array
  const n = part.shape.reduce((a, b) => a * b, 1)
  if (part.dtype === 'float32') return new Float32Array(data.buffer)
  if (part.dtype === 'float16') return Float32Array.from(new Uint16Array(data.buffer), half)
  if (part.dtype === 'bfloat16')                     // the first half of a float32
    return new Float32Array(Uint32Array.from(new Uint16Array(data.buffer), v => v << 16).buffer)
  if (part.dtype === 'bool') return Float32Array.from({ length: n }, (_, i) => data[i >> 3] >> (7 - i % 8) & 1)
  const rows = part.shape[0], cols = n / rows        // int8: a scale for each row, then the rows
  const scale = new Float32Array(data.buffer, 0, rows), whole = new Int8Array(data.buffer, 4 * rows)
  return Float32Array.from(whole, (v, i) => v * scale[Math.floor(i / cols)])
}

function weights_of(parts, data) {                   // name -> Float32Array
  const weights = {}
  for (const part of parts) weights[part.name] = unpack(data.slice(part.start, part.stop), part)
  return weights
}

function dot(a, i, b, j, n) {                        // n numbers from a[i] on times those from b[j] on
  let s = 0, t = 0, u = 0, v = 0, k = 0              // four sums, so that no addition waits for the one before
  for (; k + 3 < n; k += 4) {
    s += a[i+k] * b[j+k]
    t += a[i+k+1] * b[j+k+1]
    u += a[i+k+2] * b[j+k+2]
    v += a[i+k+3] * b[j+k+3]
  }
  for (; k < n; k++) s += a[i+k] * b[j+k]
  return s + t + u + v
}

function product(w, x, y, bias) {                    // y = w x + bias; w (len(y), len(x)), a row for each number of y
  const n = x.length
  for (let o = 0; o < y.length; o++) y[o] = dot(w, o * n, x, 0, n) + (bias ? bias[o] : 0)
  return y
}

const EPS = 2 ** -23                                 // that of a float32
function normed(x, y) {                              // root mean square 1
  const r = 1 / Math.sqrt(dot(x, 0, x, 0, x.length) / x.length + EPS)
  for (let i = 0; i < x.length; i++) y[i] = x[i] * r
  return y
}

function add(x, y) { for (let i = 0; i < x.length; i++) x[i] += y[i] }

function scaled(w, rows, factor) {                   // w (rows, n): each number times factor(row, column)
  const n = w.length / rows
  return Float32Array.from(w, (v, i) => v * factor(Math.floor(i / n), i % n))
}

function matrices(w, at, H, K, D) {                  // the four of the block whose names begin with `at`
  const norm1 = w[at + 'norm1.weight'], norm2 = w[at + 'norm2.weight']
  const qkv = w[at + 'att.fused_qkv.weight'], fc1 = w[at + 'glu.fc1.weight']
  return {
    qkv: scaled(qkv, qkv.length / D, (o, i) => norm1[i] * (o < H * K ? K ** -.5 : 1)),   // scores are divided by √K
    proj: w[at + 'att.proj.weight'],
    fc1: scaled(fc1, 2 * D, (o, i) => norm2[i] * (o < D ? 1 : .5)),                      // silu(2g) = g·(1 + tanh g)
    fc2: w[at + 'glu.fc2.weight'],
  }
}

function gated(u, y) {                               // values times silu of their gates; u (2D), the gates halved
  const D = y.length
  for (let i = 0; i < D; i++) y[i] = u[i] * u[D+i] * (1 + Math.tanh(u[D+i]))
  return y
}

class Past {                                         // keys and values of a stack's blocks, in rings
  constructor(blocks, G, K, window, max_rollback, shift) {
    this.slots = window + 1 + max_rollback
    if (shift) this.slots += 1                       // the last key stands one further on than its value
    this.size = G * this.slots * K                   // of the keys of a block, or of its values
    this.kv = new Float32Array(blocks * 2 * this.size)
    this.seen = 0
  }

  forget(n) { this.seen -= n }
}

class Stack {                                        // the blocks of a stack: weights only
  constructor(w, at, blocks, window, config) {
    const D = config.dim
    Object.assign(this, { D, window, H: config.att_q_heads, G: config.att_kv_heads })
    this.K = Math.floor(D / this.H)
    this.rotary = config.positions === 'rope'
    this.shift = at === 'latent' && config.latent_shift        // do values stand beside the key of the byte before?
    const linear = config.positions === 'alibi' || config.positions === 'relative'
    const slope = h => linear ? Math.fround(2 ** (-8 * (h + 1) / this.H)) : 0
    const learned = w[at + '.relative']                // what each distance adds to a score, beside that of ALiBi
    this.table = Float32Array.from({ length: this.H * (window + 1) }, (_, i) =>
      (learned ? learned[i] : 0) - slope(Math.floor(i / (window + 1))) * (i % (window + 1)))
    this.blocks = Array.from({ length: blocks }, (_, b) => matrices(w, `${at}.blocks.${b}.`, this.H, this.K, D))
    this.room = { x: new Float32Array(D), y: new Float32Array(D), u: new Float32Array(2 * D),
      qkv: new Float32Array((this.H + 2 * this.G) * this.K), out: new Float32Array(this.H * this.K),
      scores: new Float64Array(window + 1) }         // where intermediate results stand, used again for every byte
  }

  past(max_rollback) { return new Past(this.blocks.length, this.G, this.K, this.window, max_rollback, this.shift) }
}

Stack.prototype.rotate = function (x, count, position) {      // turn the planes of `count` heads
  const { K } = this, n = K >> 1
  for (let plane = 0; plane < n; plane++) {
    const angle = position * 10000 ** (-2 * plane / K), cos = Math.cos(angle), sin = Math.sin(angle)
    for (let i = plane; i < count * K; i += K) {
      const a = x[i], b = x[i+n]
      x[i] = a * cos - b * sin
      x[i+n] = b * cos + a * sin
    }
  }
}

Stack.prototype.keep = function (b, past) {          // note the new keys and values
  const { H, G, K } = this
  for (let g = 0; g < 2 * G; g++) {                  // G heads of keys, then G of values
    const from = (H + g) * K, slot = (past.seen - 1 + (this.shift && g < G)) % past.slots
    past.kv.set(this.room.qkv.subarray(from, from + K), 2 * b * past.size + (g * past.slots + slot) * K)
  }
}

Stack.prototype.attend = function (b, past, look) {  // look back; `look`, if given, is told how much each byte counts
  const { H, G, K, window, table, room: { qkv, out, scores } } = this, { kv, slots, size } = past
  const last = past.seen - 1, first = Math.max(0, last - window), S = last - first + 1
  out.fill(0)
  for (let h = 0; h < H; h++) {
    const keys = 2 * b * size + Math.floor(h / (H / G)) * slots * K
    const nearest = h * (window + 1) + last - first   // where the table says what the first byte's distance adds
    let best = -Infinity, total = 0
    for (let j = 0, slot = first % slots; j < S; j++, slot = slot + 1 < slots ? slot + 1 : 0) {
      scores[j] = dot(qkv, h * K, kv, keys + slot * K, K) + table[nearest - j]
      if (scores[j] > best) best = scores[j]
    }
    for (let j = 0; j < S; j++) total += scores[j] = Math.exp(Math.max(scores[j] - best, -60))
    for (let j = 0, slot = first % slots; j < S; j++, slot = slot + 1 < slots ? slot + 1 : 0) {
      const share = scores[j] /= total, value = keys + size + slot * K
      for (let k = 0; k < K; k++) out[h*K+k] += share * kv[value+k]
    }
    if (look) look.push({ block: b, head: h, first, shares: Float32Array.from(scores.subarray(0, S)) })
  }
  return out
}

Stack.prototype.forward = function (x, past, look) { // x (D,), changed in place
  if (!this.blocks.length) return x
  const { x: n, y, u, qkv } = this.room
  past.seen += 1
  this.blocks.forEach((block, b) => {
    product(block.qkv, normed(x, n), qkv)
    if (this.rotary) this.rotate(qkv, this.H + this.G, past.seen - 1)
    this.keep(b, past)
    add(x, product(block.proj, this.attend(b, past, look), y))
    add(x, product(block.fc2, gated(product(block.fc1, normed(x, n), u), y), n))
  })
  return x
}

function spacelike(v) {                              // neither an ASCII letter or digit nor a continuation byte
  const digit = 48 <= v && v <= 57, continuation = 128 <= v && v < 192
  const letter = 65 <= v && v <= 90 || 97 <= v && v <= 122
  return !(digit || letter || continuation || v < 0) // -1 stands before the text
}
function whitespace(v) { return v === 32 || v === 9 || v === 10 }
function by_space(kind) { return (v, before) => kind(v) && !kind(before) }

function hashed(position, value) {                   // 16 bits that look random
  let h = (position * 256 + value + 1) & 0x7fffffff
  for (const m of [0x45d9f3b, 0x45d9f3b]) h = Math.imul(h ^ h >>> 16, m) & 0x7fffffff
  return (h ^ h >>> 16) & 0xffff
}

const RULES = {                                      // name -> function of capacity -> rule(value, before, position)
  all: () => () => true,
  none: () => () => false,
  space: () => by_space(spacelike),
  whitespace: () => by_space(whitespace),
  stride: c => (v, b, position) => Math.floor((position + 1) * c + 1e-9) > Math.floor(position * c + 1e-9),
  random: c => (v, b, position) => hashed(position, v) < Math.ceil(c * 0x10000),
}

function weighed(z) { return { chosen: z > 0, score: z, weight: .5 + .5 * Math.tanh(.5 * z) } }

function tuned(w, begins, strength) {                // a rule that learned to differ
  const n = new Float32Array(w.length)
  return (h, v, before) => weighed(dot(w, 0, normed(h, n), 0, w.length) + (begins(v, before) ? strength : -strength))
}

const LEARNED = {                                    // name -> function of the router's tensors -> decide(h, v, before)
  topk: r => h => weighed(dot(r.weight, 0, h, 0, h.length)),
  tuned: r => tuned(r.weight, by_space(spacelike), r.rule[0]),
  words: r => tuned(r.weight, by_space(whitespace), r.rule[0]),
  rising: r => tuned(r.weight, (v, before) => r.pairs[256 * (before < 0 ? 255 : before) + v] > 0,
    r.pairs.some(p => p) ? r.rule[0] : 0),
  threshold: r => h => {
    const z = dot(r.weight, 0, h, 0, h.length) / Math.sqrt(h.length), over = z - r['quantile.value'][0]
    return { chosen: over > 0, score: z, weight: Math.tanh(over) }
  },
}
const WEIGHS = ['topk', 'tuned', 'words', 'threshold']         // their weight scales what the latent blocks change

function decider(model, name) {                      // decide(h, value, before, position) of the router called `name`
  const at = 'latent.router.', tensors = {}
  if (name in RULES) {
    const rule = RULES[name](model.config.latent_capacity_factor)
    return (h, v, before, position) => ({ chosen: rule(v, before, position), score: null, weight: null })
  }
  if (!(name in LEARNED)) throw new Error(`the router ${name} is unknown`)
  for (const k in model.weights) if (k.startsWith(at)) tensors[k.slice(at.length)] = model.weights[k]
  return LEARNED[name](tensors)
}

class Pico {                                         // a model: weights, and nothing of any text
  constructor(config, weights) {
    const c = config, w = weights, full = [c.fb_num_blocks, c.fb_att_window_size, c]
    Object.assign(this, { config, weights, D: c.dim })
    this.fb_in = new Stack(w, 'fb_in', ...full)
    this.latent = new Stack(w, 'latent', c.latent_num_blocks, c.latent_att_window_size, c)
    this.fb_out = new Stack(w, 'fb_out', ...full)
    this.head = w['unembedding.weight'].subarray(0, 256 * c.dim)
    this.bias = w['unembedding.bias'].subarray(0, 256)
    this.carry = w['latent.carry'] || null
    this.gate = w['latent.gate'] || null
    this.taps = w['latent.summary.taps'] || null
  }
}

class Decoder {                                      // reads a text byte by byte, and takes the last ones back
  constructor(model, { max_rollback = 0, latent = true, router = model.config.router } = {}) {
    Object.assign(this, { model, max_rollback, on: latent, decide: decider(model, router) })
    this.weighs = WEIGHS.includes(router)
    for (const s of ['fb_in', 'latent', 'fb_out']) this[s] = model[s].past(max_rollback)
    this.seen = 0                                    // bytes read
    this.room = 0                                    // and how many of them can be taken back
    const kept = max_rollback + (model.taps ? model.taps.length / model.D : 1)
    this.values = new Int16Array(kept).fill(-1)      // the last of them, in a ring, …
    this.chosen = new Uint8Array(kept)               // … which were routed, …
    this.last = new Float32Array((max_rollback + 1) * model.D) // … and what each hands on
    this.h = new Float32Array(model.D)
    this.logits = new Float32Array(256)
  }

  forget(n) {                                        // take back the last bytes
    if (n > this.room) throw new Error(`${n} bytes cannot be taken back`)
    this.room -= n
    for (; n > 0; n--) {
      this.seen -= 1
      this.fb_in.forget(1)
      this.fb_out.forget(1)
      this.latent.forget(this.chosen[this.seen % this.chosen.length])
    }
  }
}

Decoder.prototype.summary = function (value) {       // what a routed byte tells of its word, (D,)
  const { D, taps, weights } = this.model, slots = this.values.length, out = new Float32Array(D)
  const embedding = weights['latent.summary.embedding.weight'], weight = weights['latent.summary.norm.weight']
  for (let j = 0; j < taps.length / D && j <= this.seen; j++) {
    const slot = (this.seen - j) % slots
    if (j > 0 && this.chosen[slot]) break
    const from = (j > 0 ? this.values[slot] : value) * D
    for (let i = 0; i < D; i++) out[i] += taps[j*D+i] * embedding[from+i]
  }
  normed(out, out)
  for (let i = 0; i < D; i++) out[i] *= weight[i]
  return out
}

Decoder.prototype.hand_on = function (h, before, chosen) {     // give an unchosen byte its share of the last change
  const { model: { D, carry, gate }, last } = this, slots = this.max_rollback + 1
  const to = this.seen % slots * D, from = (this.seen + slots - 1) % slots * D
  let wanted = 0
  if (!chosen) wanted = 1 + Math.tanh(.5 * dot(gate, 0, normed(before, this.model.fb_in.room.x), 0, D))       // 2σ
  for (let i = 0; i < D; i++) {
    last[to+i] = chosen ? carry[i] * (h[i] - before[i]) : last[from+i]
    if (!chosen) h[i] += wanted * last[to+i]
  }
}

Decoder.prototype.deepen = function (h, value, look) {         // the latent blocks, if the router chooses the byte
  const { model } = this, slots = this.values.length
  const before = this.seen ? this.values[(this.seen - 1 + slots) % slots] : -1
  const route = this.decide(h, value, before, this.seen)
  const some = h.slice()
  if (route.chosen) {
    const brought = model.taps ? this.summary(value) : null
    if (brought) add(h, brought)
    model.latent.forward(h, this.latent, look)
    if (brought) for (let i = 0; i < h.length; i++) h[i] -= brought[i]
    if (this.weighs) for (let i = 0; i < h.length; i++) h[i] = some[i] + route.weight * (h[i] - some[i])
  }
  if (model.carry) this.hand_on(h, some, route.chosen)
  return route
}

Decoder.prototype.read = function (value, look) {    // one byte; then `logits` are those of the next, `h` the state
  const { model, h } = this, { D } = model, slots = this.values.length
  h.set(model.weights['embedding.weight'].subarray(value * D, (value + 1) * D))
  model.fb_in.forward(h, this.fb_in)
  const route = this.on ? this.deepen(h, value, look) : { chosen: false, score: null, weight: null }
  this.values[this.seen % slots] = value
  this.chosen[this.seen % slots] = route.chosen ? 1 : 0
  this.seen += 1
  this.room = Math.min(this.room + 1, this.max_rollback)
  normed(model.fb_out.forward(h, this.fb_out), h)
  const norm = model.weights['norm.weight']
  for (let i = 0; i < D; i++) h[i] *= norm[i]
  product(model.head, h, this.logits, model.bias)
  return route
}

Decoder.prototype.save = function () {               // a copy of everything that reading changes
  const copy = { seen: this.seen, room: this.room }
  for (const k of ['values', 'chosen', 'last', 'h', 'logits']) copy[k] = this[k].slice()
  for (const s of ['fb_in', 'latent', 'fb_out']) copy[s] = { seen: this[s].seen, kv: this[s].kv.slice() }
  return copy
}

Decoder.prototype.restore = function (copy) {        // go on from there
  this.seen = copy.seen
  this.room = copy.room
  for (const k of ['values', 'chosen', 'last', 'h', 'logits']) this[k].set(copy[k])
  for (const s of ['fb_in', 'latent', 'fb_out']) {
    this[s].seen = copy[s].seen
    this[s].kv.set(copy[s].kv)
  }
}
