'use strict'

function mixed(a) {                                  // a whole number of 32 bits in, another out, all bits mixed
  a = Math.imul(a ^ a >>> 16, 0x21f0aaad)
  a = Math.imul(a ^ a >>> 15, 0x735a2d97)
  return (a ^ a >>> 15) >>> 0
}

function noise(seed, place) {                        // 256 Gumbel numbers, a function of seed and place alone
  const row = new Float64Array(256), start = mixed(mixed(seed + 0x9e3779b9) + place)
  for (let v = 0; v < 256; v++) row[v] = -Math.log(-Math.log((mixed(start + v) + .5) / 2 ** 32))
  return row
}

function probabilities(logits, temperature = 1) {    // sum to 1
  const p = new Float64Array(256)
  let best = -Infinity, total = 0
  for (let v = 0; v < 256; v++) if (logits[v] > best) best = logits[v]
  for (let v = 0; v < 256; v++) total += p[v] = Math.exp((logits[v] - best) / temperature)
  for (let v = 0; v < 256; v++) p[v] /= total
  return p
}

function scores(logits, temperature, top_p) {        // what noise is added to; -Infinity for a byte that is out
  if (temperature === 0) return Float64Array.from(logits)
  const s = Float64Array.from(logits, z => z / temperature)
  if (top_p >= 1) return s
  const p = probabilities(logits, temperature), order = [...p.keys()].sort((a, b) => p[b] - p[a] || a - b)
  let before = 0
  for (const v of order) {
    if (before >= top_p) s[v] = -Infinity            // what stands before it is enough already
    before += p[v]
  }
  return s
}

function choose(s, row) {                            // the winner of the race; row = null: without noise
  let best = 0
  for (let v = 1; v < 256; v++) if (s[v] + (row ? row[v] : 0) > s[best] + (row ? row[best] : 0)) best = v
  return best
}

class Chain {                                        // chained heads: draft one byte after another
  constructor(model) {
    const w = model.weights, names = ['start_in', 'start_out', 'mix', 'seen', 'back', 'guess']
    for (const name of names) this[name] = w[`unembedding.${name}.weight`]
    this.bias = w['unembedding.guess.bias']
    const D = model.D
    Object.assign(this, { s: new Float32Array(D), y: new Float32Array(D), u: new Float32Array(4 * D),
      v: new Float32Array(2 * D), logits: new Float32Array(256) })
  }

  gated(u) {                                         // tanh(v) · σ(g)
    const n = this.v.length
    for (let i = 0; i < n; i++) this.v[i] = Math.tanh(u[i]) / (1 + Math.exp(-u[n+i]))
    return this.v
  }

  begin(h) {                                         // starts again from the state after the last byte that was read
    this.s.set(h)
    add(this.s, product(this.start_out, this.gated(product(this.start_in, h, this.u)), this.y))
  }

  next(last) {                                       // logits of the byte after `last`
    const n = this.u.length
    product(this.mix, this.s, this.u)
    add(this.u, this.seen.subarray(last * n, (last + 1) * n))
    product(this.back, this.gated(this.u), this.y)
    for (let i = 0; i < this.s.length; i++) this.s[i] = this.s[i] / 2 + this.y[i]
    return product(this.guess, this.s, this.logits, this.bias)
  }
}

class Slices {                                       // linear heads: all drafts are known at once
  constructor(model) { Object.assign(this, { model, logits: new Float32Array(256), h: null, at: 0 }) }
  begin(h) {
    this.h = h.slice()
    this.at = 0
  }
  next() {
    const { weights, D } = this.model, at = 256 * ++this.at
    const w = weights['unembedding.weight'].subarray(at * D, (at + 256) * D)
    return product(w, this.h, this.logits, weights['unembedding.bias'].subarray(at, at + 256))
  }
}

function drafter(model) {                            // heads 2 to N, for drafting; null if there are none
  if (model.config.next_tokens === 1) return null
  return new (model.config.heads === 'chained' ? Chain : Slices)(model)
}

function guess(ahead, h, last, place, most, { temperature, top_p, seed }) {     // bytes that may follow `last`
  const drafts = []
  let sure = 1
  ahead.begin(h)
  while (drafts.length < most) {
    const logits = ahead.next(last), row = temperature ? noise(seed, place + drafts.length) : null
    last = choose(scores(logits, temperature, top_p), row && row.map(x => x / 2))     // less sure than the model
    sure *= Math.max(...probabilities(logits, temperature || 1))
    if (sure < .3) break                             // go on while all of them probably stand
    drafts.push(last)
  }
  return drafts
}

const BEST = 10
class Facts {                                        // what is told of n bytes, in arrays that a page can keep
  constructor(from, n) {
    Object.assign(this, { from, n: 0, bytes: new Uint8Array(n), cost: new Float32Array(n), routed: new Uint8Array(n),
      score: new Float32Array(n), weight: new Float32Array(n), drafted: new Uint8Array(n),
      likely: new Uint8Array(n * BEST), chance: new Float32Array(n * BEST) })
  }

  expect(p, value) {                                 // what was thought likely, before the byte is read
    const at = this.n, ids = this.likely.subarray(at * BEST, (at + 1) * BEST)
    this.bytes[at] = value
    this.cost[at] = p ? -Math.log2(p[value]) : NaN   // nothing was expected before the first byte of all
    if (!p) return
    best_of(p, ids)
    ids.forEach((v, i) => { this.chance[at * BEST + i] = p[v] })
  }

  note(route, drafted) {                             // what happened to it
    const at = this.n++
    this.routed[at] = route.chosen ? 1 : 0
    this.score[at] = route.score === null ? NaN : route.score
    this.weight[at] = route.weight === null ? NaN : route.weight
    this.drafted[at] = drafted ? 1 : 0
  }
}

function best_of(p, ids) {                           // the likeliest bytes, in order
  let held = 0
  for (let v = 0; v < 256; v++) {
    if (held === ids.length && p[v] <= p[ids[held-1]]) continue
    let i = held < ids.length ? held++ : held - 1
    for (; i > 0 && p[ids[i-1]] < p[v]; i--) ids[i] = ids[i-1]
    ids[i] = v
  }
}

const KEPT = 64                                      // copies of the decoder's state that are held at most
class Session {                                      // one text as one model reads it
  constructor(model, marks) {
    Object.assign(this, { model, opening: marks[0], closing: marks[1], ahead: drafter(model) })
    this.text = new Uint8Array(1024)                 // the text without its opening mark
    this.size = 0                                    // of it, in bytes
    this.set({})
  }

  set({ latent = true, router = this.model.config.router }) {      // other switches: everything is read again
    this.how = { latent, router, max_rollback: 64 }
    this.decoder = new Decoder(this.model, this.how)
    this.spare = null                                // another one, which looks at places in the middle
    this.drafts = []                                 // bytes that may come next
    for (const v of this.opening) this.decoder.read(v)
    this.routed = new Uint8Array(this.text.length)   // which bytes of the text were routed
    this.read = 0                                    // bytes of the text that have been read
    this.every = 256                                 // a copy of the state is held after so many bytes
    this.copies = [{ at: 0, state: this.decoder.save() }]
  }

  add(bytes) {                                       // text to be read
    const size = this.size + bytes.length
    if (size > this.text.length) {
      const more = n => {
        const a = new Uint8Array(2 * size)
        a.set(n)
        return a
      }
      this.text = more(this.text)
      this.routed = more(this.routed)
    }
    this.text.set(bytes, this.size)
    this.size = size
  }

  get expected() {                                   // probabilities of the next byte; null where nothing was read
    return this.opening.length || this.read ? probabilities(this.decoder.logits) : null
  }
}

Session.prototype.keep = function (n) {              // cut the text to its first n bytes, as if no more had been read
  this.size = Math.min(this.size, n)
  this.drafts = []
  if (n >= this.read) return
  this.copies = this.copies.filter(c => c.at <= n)
  const { at, state } = this.copies[this.copies.length - 1], back = this.read - n + 1
  if (n > at && back <= this.decoder.room) {         // a few: the last one is read again for its logits
    this.decoder.forget(back)
    this.decoder.read(this.text[n-1])
  } else {
    this.decoder.restore(state)
    for (let i = at; i < n; i++) this.decoder.read(this.text[i])
  }
  this.read = n
}

Session.prototype.hold = function () {               // now and then a copy of the state; fewer, the longer the text
  if (this.read % this.every || this.read === this.copies[this.copies.length - 1].at) return
  this.copies.push({ at: this.read, state: this.decoder.save() })
  if (this.copies.length <= KEPT) return
  this.every *= 2
  this.copies = this.copies.filter(c => c.at % this.every === 0)
}

Session.prototype.next = function (facts, drafted = 0) {       // read one byte of the text
  const value = this.text[this.read]
  facts.expect(this.expected, value)
  const route = this.decoder.read(value)
  facts.note(route, drafted)
  this.routed[this.read++] = route.chosen ? 1 : 0
  this.hold()
}

Session.prototype.some = function (most, until) {    // read on for a while; null if there is nothing to be read
  if (this.read === this.size) return null
  const facts = new Facts(this.read, Math.min(most, this.size - this.read))
  do {
    this.next(facts)
  } while (facts.n < facts.bytes.length && performance.now() < until)
  return facts
}

// write some bytes; `how`: temperature, top_p, seed, draft
Session.prototype.write = function (most, how, until) {
  const facts = new Facts(this.read, most), heads = how.draft && this.ahead ? this.model.config.next_tokens - 1 : 0
  let asked = 0, right = 0
  do {
    const row = how.temperature ? noise(how.seed, this.read) : null
    const value = choose(scores(this.decoder.logits, how.temperature, how.top_p), row)
    const stood = heads > 0 && this.drafts[0] === value
    right += stood
    this.drafts = stood ? this.drafts.slice(1) : []  // a wrong draft, and what was built on it, is thrown away
    this.add([value])
    if (heads && !stood) {
      this.drafts = guess(this.ahead, this.decoder.h, value, this.read + 1, heads, how)
      asked += this.drafts.length
    }
    this.next(facts, stood)
    if (this.ended()) break
  } while (facts.n < most && performance.now() < until)
  return { facts, asked, right, ended: this.ended() }
}

Session.prototype.ended = function () {              // does the text end with the closing mark?
  const { closing, text, size } = this
  return closing.length > 0 && size >= closing.length && closing.every((v, i) => text[size - closing.length + i] === v)
}

Session.prototype.look = function (at) {             // how byte `at` looked back in the latent blocks
  const copy = this.copies.filter(c => c.at <= at).pop(), found = []
  const decoder = this.spare = this.spare || new Decoder(this.model, this.how)
  decoder.restore(copy.state)
  for (let i = copy.at; i < at; i++) decoder.read(this.text[i])
  decoder.read(this.text[at], found)
  const places = []                                  // where the routed bytes stand that were looked at
  for (let i = at; i >= 0 && places.length <= this.model.latent.window; i--) if (this.routed[i]) places.unshift(i)
  return found.map(f => {                            // what lies before the text is its opening mark, at -1
    const where = new Int32Array(f.shares.length).fill(-1)
    where.set(places.slice(-where.length), where.length - Math.min(places.length, where.length))
    return { block: f.block, head: f.head, shares: f.shares, places: where }
  })
}
