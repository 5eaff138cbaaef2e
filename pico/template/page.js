'use strict'

const $ = id => document.getElementById(id)
const ABOUT = JSON.parse($('about').textContent)

function element(kind, names, text) {                // text is only ever text: nothing of it becomes markup
  const e = document.createElement(kind)
  if (names) e.className = names
  if (text !== undefined) e.textContent = text
  return e
}

function name_of(v) {                                // a byte for people
  const named = { 9: 'tab', 10: 'line feed', 13: 'return', 32: 'space' }[v]
  if (named) return named
  if (ABOUT.marks[1].length === 1 && v === ABOUT.marks[1][0]) return 'end of text'
  return v > 32 && v < 127 ? String.fromCharCode(v) : `0x${v.toString(16).padStart(2, '0')}`
}

function percent(p) {
  if (p < .0001) return p > 0 ? '<0.01%' : '0%'
  return p < .0995 ? `${(100 * p).toFixed(p < .001 ? 2 : 1)}%` : `${Math.round(100 * p)}%`
}

function bar(label, share, chosen) {                 // a row of a list of bars
  const row = element('li', chosen ? 'this' : ''), line = element('span', 'bar')
  line.style.width = `${Math.max(0, Math.min(100, 100 * share))}%`
  row.append(element('span', 'label', label), line, element('span', 'share', percent(share)))
  return row
}

class Store {                                        // what is known of every byte of a text
  constructor() {
    this.n = 0
    this.kinds = { bytes: [Uint8Array, 1], cost: [Float32Array, 1], routed: [Uint8Array, 1], score: [Float32Array, 1],
      weight: [Float32Array, 1], drafted: [Uint8Array, 1], likely: [Uint8Array, 10], chance: [Float32Array, 10] }
    for (const k in this.kinds) this[k] = new this.kinds[k][0](1024 * this.kinds[k][1])
  }

  add(facts) {                                       // from `facts.from` on
    const n = facts.from + facts.n
    for (const [k, [kind, each]] of Object.entries(this.kinds)) {
      if (n * each > this[k].length) {
        const old = this[k]
        this[k] = new kind(2 * n * each)
        this[k].set(old)
      }
      this[k].set(facts[k].subarray(0, facts.n * each), facts.from * each)
    }
    this.n = n
  }

  keep(n) { this.n = Math.min(this.n, n) }

  get summary() {                                    // bits per byte, and the share of routed bytes
    let bits = 0, scored = 0, routed = 0
    for (let i = 0; i < this.n; i++) {
      routed += this.routed[i]
      if (this.cost[i] === this.cost[i]) {
        bits += this.cost[i]
        scored++
      }
    }
    return { bits: bits / scored, routed: routed / this.n }
  }
}

const BLOCK = 512                                    // bytes: only blocks in sight hold an element per character
class Pane {                                         // the coloured text of a side
  constructor(side, where) {
    Object.assign(this, { side, where, blocks: [], at: -1, shares: new Map() })
    this.watch = new IntersectionObserver(seen => seen.forEach(s => this.show(s.target.block, s.isIntersecting)),
      { root: where, rootMargin: '300px' })
  }

  keep(n) {                                          // what is shown from byte n on goes
    while (this.blocks.length && this.blocks[this.blocks.length - 1].stop > n) this.drop()
    this.extend(n)
  }

  drop() {
    const { e } = this.blocks.pop()
    this.watch.unobserve(e)
    e.remove()
  }

  extend(n) {                                        // show the text up to byte n
    const last = this.blocks[this.blocks.length - 1]
    if (last && last.open) this.drop()               // it is not full yet, or may end within a character
    const { store } = this.side
    let start = this.blocks.length ? this.blocks[this.blocks.length - 1].stop : 0
    while (start < n) {
      const chars = characters(store.bytes.subarray(start, Math.min(n, start + BLOCK + 4)))
      const open = start + BLOCK + 4 > n
      const some = open ? chars : chars.slice(0, 1 + chars.findIndex(c => c[2] >= BLOCK))
      const stop = start + some[some.length - 1][2]
      const block = { start, stop, open, chars: some, live: false, e: element('span') }
      block.e.block = block
      block.e.textContent = visible(some.map(c => c[0]).join(''))
      this.blocks.push(block)
      this.where.append(block.e)
      this.watch.observe(block.e)
      if (block.open) this.show(block, true)         // what is being written is in sight
      start = block.stop
    }
  }
}

Pane.prototype.show = function (block, live) {       // an element for each character, or the text alone
  if (block.live === live) return
  block.live = live
  if (!live) {
    block.e.textContent = visible(block.chars.map(c => c[0]).join(''))
    return
  }
  const { store, begins } = this.side
  block.e.replaceChildren(...block.chars.map(([c, a, b]) => {
    let cost = 0, routed = false, drafted = true
    for (let i = block.start + a; i < block.start + b; i++) {
      cost += store.cost[i]
      routed = routed || store.routed[i] > 0
      drafted = drafted && store.drafted[i] > 0
    }
    const e = element('span', classes(cost, routed, drafted), visible(c))
    e.at = block.start + a
    if (begins(e.at)) e.classList.add('begins')
    return e
  }))
  this.mark(block)
}

Pane.prototype.mark = function (block) {             // the chosen byte, and those that were looked at
  if (!block.live) return
  block.chars.forEach(([, a, b], i) => {
    let share = 0, on = false
    for (let k = block.start + a; k < block.start + b; k++) {
      share = Math.max(share, this.shares.get(k) || 0)
      on = on || k === this.at
    }
    const { classList } = block.e.childNodes[i]
    classList.toggle('on', on)
    for (const [name, least] of [['look', .02], ['look2', .1], ['look3', .3]]) classList.toggle(name, share >= least)
  })
}

Pane.prototype.point = function (at, shares) {       // at a byte, and at what it looked at
  Object.assign(this, { at, shares })
  for (const block of this.blocks) this.mark(block)
}

Pane.prototype.scroll = function (at) {              // bring a byte into sight
  const block = this.blocks.find(b => b.start <= at && at < b.stop)
  if (!block) return
  this.show(block, true)
  const i = block.chars.findIndex(c => block.start + c[2] > at)
  block.e.childNodes[i].scrollIntoView({ block: 'nearest' })
}

const NOT_TRAINED = 'The model was not trained with these settings: you see how it does without what it learned to use.'
class Side {                                         // one reader of the text: a worker, its settings, its colours
  constructor(label) {
    this.e = $('side').content.firstElementChild.cloneNode(true)
    const find = name => this.e.querySelector(name)
    Object.assign(this, { label, store: new Store(), latent: find('.latent'), router: find('.router'),
      numbers: find('.numbers'), warning: find('.warning'), begins: at => editor.from === at })
    this.pane = new Pane(this, find('.pane'))
    this.pane.where.setAttribute('aria-label', `${label}: the text, byte by byte`)
    this.warning.textContent = NOT_TRAINED
    this.next = null                                 // what is expected after the text
    this.speed = null
    this.rest = 0                                    // until then nothing new is painted
    this.version = 0                                 // what a worker says of an older text is not heard
    for (const [value, text] of Object.entries(ABOUT.routers)) {
      const option = element('option', '', text)
      option.value = value
      this.router.append(option)
    }
    this.latent.onchange = this.router.onchange = () => this.set()
    this.listen()
    $('sides').append(this.e)
    this.start()
  }

  start() {
    const blob = new Blob([$('worker').textContent], { type: 'text/javascript' })
    this.worker = new Worker(URL.createObjectURL(blob))
    this.worker.onmessage = ({ data: m }) => { if (m.version === this.version) HEARD[m.kind](this, m) }
    this.worker.onerror = e => { $('status').textContent = `The model stopped: ${e.message}` }
    this.tell('begin', { about: ABOUT, data: $('weights').textContent })
  }

  tell(kind, more) { this.worker.postMessage({ kind, version: this.version, ...more }) }
}

Side.prototype.change = function (from) {            // the text is another one from this byte on
  this.keep(from)
  this.next = null
  if (!this.ready) return                            // it will be told then
  this.version += 1                                  // what is on its way is lost, so it is read again
  this.tell('text', { keep: this.store.n, bytes: editor.bytes.slice(this.store.n) })
}

Side.prototype.set = function () {                   // other switches: the text is read again
  const how = { latent: this.latent.checked, router: this.router.value }
  if (this === sides[0]) writing(false)              // it writes no more
  this.warning.hidden = how.latent && how.router === ABOUT.config.router
  this.tell('set', { how })
  this.change(0)
}

Side.prototype.keep = function (n) {
  this.store.keep(n)
  this.pane.keep(this.store.n)
  this.count()
}

Side.prototype.paint = function (now) {              // to lay a long text out takes long: at most a fifth of the time
  const start = performance.now()
  if (start < this.rest && !now) return
  this.pane.extend(this.store.n)
  const { scrollHeight } = this.pane.where           // asking for it makes the browser lay the text out here and now
  if (at_work && this === sides[0]) this.pane.where.scrollTop = scrollHeight
  const end = performance.now()
  this.rest = end + 4 * (end - start)
}

Side.prototype.count = function (left = 0) {         // the line above the text
  const { bits, routed } = this.store.summary, { n } = this.store
  const speed = this.speed ? ` · ${Math.round(this.speed).toLocaleString('en')} bytes/s` : ''
  const reading = left ? ` · ${left.toLocaleString('en')} still to be read` : ''
  const cost = bits === bits ? `${bits.toFixed(3)} bits per byte · ` : ''
  const all = `${cost}${percent(routed)} routed · ${n.toLocaleString('en')} bytes${speed}${reading}`
  this.numbers.textContent = n ? all : ''
}

Side.prototype.listen = function () {                // mouse, touch and keys
  const { where } = this.pane
  const at = e => e.target.at
  where.onpointermove = e => { if (e.pointerType === 'mouse' && at(e) !== undefined) choose_byte(this, at(e)) }
  where.onclick = e => { if (at(e) !== undefined) choose_byte(this, at(e)) }
  where.onfocus = () => {
    if (this.pane.at < 0 && this.store.n && where.matches(':focus-visible')) choose_byte(this, 0)
  }
  where.onkeydown = e => {
    const { n, routed } = this.store, now = Math.max(0, this.pane.at)
    const routed_from = (i, step) => {
      for (i += step; i >= 0 && i < n; i += step) if (routed[i]) return i
      return now
    }
    const to = { ArrowLeft: () => Math.max(0, now - 1), ArrowRight: () => Math.min(n - 1, now + 1), Home: () => 0,
      End: () => n - 1, ArrowUp: () => routed_from(now, -1), ArrowDown: () => routed_from(now, 1) }[e.key]
    if (!to || !n) return
    e.preventDefault()
    choose_byte(this, to())
    this.pane.scroll(this.pane.at)
  }
}

const HEARD = {                                      // what workers say
  ready(side) {
    side.ready = true
    side.set()
    if ($('write').disabled) $('status').textContent = ABOUT.status
    $('write').disabled = false
  },
  read(side, m) {
    side.speed = rate(side, m)
    side.store.add(m.facts)
    side.paint()
    side.count(m.left)
  },
  wrote(side, m) {
    const { bytes, from, n } = m.facts
    editor.append(bytes.subarray(0, n), from)
    HEARD.read(side, { ...m, left: 0 })
    for (const other of sides) if (other !== side && other.ready) other.tell('more', { bytes: bytes.slice(0, n) })
    drafts.asked += m.asked
    drafts.right += m.right
    const { asked, right } = drafts
    if (asked) $('status').textContent = `${right} of ${asked} drafts were right.`
  },
  stopped(side, m) {
    writing(false)
    editor.cut(m.size)
    if (m.ended) $('status').textContent = 'The model ended its text here.'
  },
  idle(side, m) {
    side.paint(true)
    side.next = m.size === side.store.n ? m : null
    side.e.dataset.read = m.size                     // up to here everything is shown
    refresh(side)
  },
  looked(side, m) {
    if (chosen.side !== side || chosen.at !== m.at) return
    chosen.found = m.found
    draw_looks()
  },
}
const drafts = { asked: 0, right: 0 }

function rate(side, m) {                             // bytes per second, a running mean
  const now = 1000 * m.facts.n / Math.max(m.ms, .1)
  return side.speed ? .8 * side.speed + .2 * now : now
}

const chosen = { side: null, at: -1, found: null, timer: 0 }  // the byte that the panel tells about

function choose_byte(side, at) {
  if (chosen.side === side && chosen.at === at) return
  if (chosen.side && chosen.side !== side) chosen.side.pane.point(-1, new Map())
  Object.assign(chosen, { side, at, found: null })
  side.pane.point(at, new Map())
  tell_byte()
  clearTimeout(chosen.timer)                         // a mouse that only passes asks for nothing
  if (side.store.routed[at]) chosen.timer = setTimeout(() => side.tell('look', { at }), 60)
}

function refresh(side) {                             // the text has changed: is the byte still there?
  if (chosen.side !== side) return
  const { at } = chosen
  chosen.side = null
  if (at < side.store.n) choose_byte(side, at)
  else {
    chosen.side = side
    forget_byte()
  }
}

function forget_byte() {
  if (chosen.side) chosen.side.pane.point(-1, new Map())
  chosen.side = null
  $('byte').hidden = true
}

function tell_byte() {
  const { side, at } = chosen, { store, next, label } = side, v = store.bytes[at], cost = store.cost[at]
  const whole = characters(store.bytes.subarray(Math.max(0, at - 3), at + 4)).find(c => c[2] > Math.min(3, at))
  const nth = Math.min(3, at) - whole[1] + 1, size = whole[2] - whole[1]
  const of = size > 1 ? `, byte ${nth} of ${size} of “${whole[0]}”` : ''
  $('byte').hidden = false
  $('name').textContent = `${name_of(v)} (0x${v.toString(16).padStart(2, '0')})`
  const price = cost === cost ? `It cost ${cost.toFixed(2)} bits: its probability was ${percent(2 ** -cost)}. ` : ''
  const drafted = store.drafted[at] ? ' A draft had it right.' : ''
  const place = sides.length > 1 ? `${label}, place` : 'Place'
  $('what').textContent = `${place} ${at + 1}${of}. ${price}${tell_route(side, at)}${drafted}`
  bars($('here'), store.likely, store.chance, cost === cost ? at * 10 : -1, v)
  if (at + 1 < store.n) bars($('next'), store.likely, store.chance, (at + 1) * 10, store.bytes[at+1])
  else bars($('next'), next && next.likely, next && next.chance, next ? 0 : -1, -1)
  draw_looks()
}

function tell_route(side, at) {
  if (!side.latent.checked) return 'The latent blocks are switched off.'
  const { store } = side
  const score = store.score[at], weight = store.weight[at]
  const how = store.routed[at] ? 'It was routed' : 'It was not routed'
  if (score !== score) return `${how}, by a rule without a score.`
  return `${how}: score ${score.toFixed(2)}, weight ${weight.toFixed(2)}.`
}

function bars(list, likely, chance, from, actual) {
  list.replaceChildren()
  if (from < 0) {
    list.append(element('li', 'soft', 'nothing'))
    return
  }
  for (let i = from; i < from + 10; i++) list.append(bar(name_of(likely[i]), chance[i], likely[i] === actual))
}

function draw_looks() {                              // how much each byte counted for the chosen one
  const { side, at, found } = chosen, { store } = side, block = Number($('block').value), head = Number($('head').value)
  $('places').replaceChildren()
  const nothing = store.routed[at] ? '' : 'This byte went around the latent blocks.'
  $('nowhere').textContent = nothing || (found ? '' : '…')
  if (!found || nothing) return
  const some = found.filter(f => f.block === block && (head < 0 || f.head === head)), shares = new Map()
  for (const f of some)
    f.places.forEach((p, i) => shares.set(p, (shares.get(p) || 0) + f.shares[i] / some.length))
  side.pane.point(at, shares)
  const best = [...shares].sort((a, b) => b[1] - a[1]).slice(0, 8)
  for (const [place, share] of best)
    $('places').append(bar(place < 0 ? '(before the text)' : around(store, place), share))
}

function around(store, place) {                      // a few bytes from there on, in one line
  const text = characters(store.bytes.subarray(place, Math.min(store.n, place + 14))).map(c => c[0]).join('')
  return visible(text).replace(/\n/g, '⏎').replace(/\t/g, '⇥')
}

class Editor {                                       // the text as bytes, beside the text as the field shows it
  constructor(field) {
    Object.assign(this, { field, bytes: new Uint8Array(), shown: '', past: [], typed: [] })
    this.from = -1                                   // the place from which on the model wrote
    field.oninput = () => this.changed()
  }

  display(bytes) { return visible(characters(bytes).map(c => c[0]).join('')) }

  changed() {                                        // somebody typed: which bytes are other ones?
    const now = this.field.value, old = this.shown
    if (now === old) return
    let a = 0, b = 0
    const most = Math.min(now.length, old.length)
    while (a < most && now[a] === old[a]) a++
    while (b < most - a && now[now.length-1-b] === old[old.length-1-b]) b++
    const [start, stop] = this.places(a, old.length - b)
    const from = now.slice(start.unit, a), to = old.slice(old.length - b, stop.unit)
    const middle = new TextEncoder().encode(from + now.slice(a, now.length - b) + to)
    this.replace(start.byte, stop.byte, middle, now)
  }

  places(a, b) {                                     // where the characters around two places begin and end
    let unit = 0
    const start = { byte: 0, unit: 0 }, stop = { byte: 0, unit: 0 }
    for (const [c, i, j] of characters(this.bytes)) {
      if (unit + c.length <= a) Object.assign(start, { byte: j, unit: unit + c.length })
      if (unit < b) Object.assign(stop, { byte: j, unit: unit + c.length })
      unit += c.length
    }
    if (stop.byte < start.byte) Object.assign(stop, start)
    return [start, stop]
  }
}

Editor.prototype.replace = function (start, stop, middle, shown, undoing) {     // bytes start to stop become others
  const old = this.bytes, bytes = new Uint8Array(old.length - (stop - start) + middle.length)
  bytes.set(old.subarray(0, start))
  bytes.set(middle, start)
  bytes.set(old.subarray(stop), start + middle.length)
  if (!undoing) this.remember(start, old.slice(start, stop), middle.length)
  if (start <= this.from) this.from = -1
  this.bytes = bytes
  this.show(shown)
  writing(false)
  for (const side of sides) side.change(start)
}

Editor.prototype.show = function (shown = this.display(this.bytes)) {
  if (this.field.value !== shown) this.field.value = shown
  this.shown = this.field.value
}

Editor.prototype.remember = function (start, removed, added) {
  this.past.push({ start, removed, added })
  if (this.past.length > 100) this.past.shift()
  $('undo').disabled = false
}

Editor.prototype.undo = function () {
  const last = this.past.pop()
  $('undo').disabled = !this.past.length
  if (!last) return
  this.replace(last.start, last.start + last.added, last.removed, undefined, true)
}

Editor.prototype.append = function (bytes, from) {   // the model wrote
  if (!this.past[this.past.length - 1].added) this.from = from
  const all = new Uint8Array(from + bytes.length)
  all.set(this.bytes.subarray(0, from))
  all.set(bytes, from)
  const before = Math.max(0, from - 3)
  this.bytes = all
  this.past[this.past.length - 1].added += bytes.length
  if (from > 3 && this.bytes.subarray(before).every(v => v < 0x80 && v > 31 || v === 10)) {  // the common case
    this.field.setRangeText(String.fromCharCode(...bytes), this.shown.length, this.shown.length, 'preserve')
    this.shown = this.field.value
  } else this.show()
}

Editor.prototype.cut = function (n) {                // a closing mark is no part of the text
  if (n >= this.bytes.length) return
  this.past[this.past.length - 1].added -= this.bytes.length - n
  this.bytes = this.bytes.slice(0, n)
  this.show()
  for (const side of sides) side.change(n)
}

const number = id => {                               // what a field holds, within its limits
  const { value, min, max, defaultValue } = $(id), n = Number(value === '' ? defaultValue : value)
  return Math.min(Number(max), Math.max(Number(min), Number.isFinite(n) ? n : Number(defaultValue)))
}

let at_work = false
function writing(now) {
  at_work = now
  $('write').textContent = now ? 'Stop' : 'Write on'
}

$('write').onclick = () => {
  if (at_work) {
    sides[0].tell('stop')
    return
  }
  const how = { temperature: number('temperature'), top_p: number('top_p'), seed: Math.floor(number('seed')),
    most: Math.floor(number('most')), draft: $('draft').checked }
  Object.assign(drafts, { asked: 0, right: 0 })
  editor.remember(editor.bytes.length, new Uint8Array(), 0)
  sides[0].speed = null
  sides[0].tell('write', { how })
  writing(true)
}
$('undo').onclick = () => editor.undo()
$('close').onclick = forget_byte
$('how').open = matchMedia('(min-width: 700px)').matches

$('compare').onchange = () => {                      // a second side, or none
  const two = $('compare').checked
  $('sides').classList.toggle('two', two)
  if (two) sides.push(new Side('Second settings'))
  else {
    const { worker, e, pane } = sides.pop()
    worker.terminate()
    pane.watch.disconnect()
    e.remove()
    if (chosen.side && !sides.includes(chosen.side)) forget_byte()
  }
}

$('file').onchange = async () => {                   // its bytes as they are, also where they are not valid UTF-8
  const [file] = $('file').files
  if (!file) return
  const bytes = new Uint8Array(await file.slice(0, 1e6).arrayBuffer())
  if (file.size > 1e6) $('status').textContent = `The first 1,000,000 of ${file.size.toLocaleString('en')} bytes.`
  editor.replace(0, editor.bytes.length, bytes)
  $('file').value = ''
}

function add_examples() {
  for (const { title, text, question, answer } of ABOUT.examples) {
    const button = element('button', '', title)
    const ask = () => {
      $('question').open = false
      $('question').firstElementChild.textContent = question
      $('question').lastElementChild.textContent = answer
    }
    button.onclick = () => {
      editor.replace(0, editor.bytes.length, new TextEncoder().encode(text))
      ask()
    }
    if (text === ABOUT.text) ask()
    $('examples').append(button)
  }
}

function add_choices() {                             // of a block and a head
  const option = (value, text) => {
    const o = element('option', '', text)
    o.value = value
    return o
  }
  for (let b = 0; b < ABOUT.config.latent_num_blocks; b++) $('block').append(option(b, b + 1))
  $('head').append(option(-1, 'mean of all'))
  for (let h = 0; h < ABOUT.config.att_q_heads; h++) $('head').append(option(h, h + 1))
  $('block').onchange = $('head').onchange = () => { if (chosen.side) draw_looks() }
  $('looks').hidden = !ABOUT.config.latent_num_blocks
}

const sides = [], editor = new Editor($('text'))
add_examples()
add_choices()
editor.bytes = new TextEncoder().encode(ABOUT.text)
editor.show()
sides.push(new Side('Settings'))
