'use strict'

let session = null, writing = null, waiting = false, version = 0
const channel = new MessageChannel()                 // a turn of its own for each slice, so that messages come between
channel.port1.onmessage = () => {
  waiting = false
  turn()
}

function soon() {
  if (waiting) return
  waiting = true
  channel.port2.postMessage(null)
}

function tell(kind, more, arrays = []) { postMessage({ kind, version, ...more }, arrays) }

function tell_facts(kind, facts, more) {             // the arrays move to the page, without a copy
  const arrays = ['bytes', 'cost', 'routed', 'score', 'weight', 'drafted', 'likely', 'chance'].map(k => facts[k].buffer)
  tell(kind, { facts, ...more }, arrays)
}

const SLICE = 25                                     // milliseconds between two looks at what the page wants
function turn() {
  const began = performance.now(), until = began + SLICE
  const facts = session.some(4096, until)
  if (facts) tell_facts('read', facts, { ms: performance.now() - began, left: session.size - session.read })
  else if (writing) {
    const done = session.write(Math.min(256, writing.most), writing, until)
    writing.most -= done.facts.n
    if (done.ended) done.facts.n = Math.max(0, done.facts.n - session.closing.length)
    tell_facts('wrote', done.facts, { ms: performance.now() - began, asked: done.asked, right: done.right })
    if (done.ended || writing.most <= 0) stop(done.ended)
  }
  if (session.read < session.size || writing) soon()
  else ahead()
}

function ahead() {                                   // nothing is left to do: what is expected next
  const p = session.expected, likely = new Uint8Array(BEST)
  if (p) best_of(p, likely)
  tell('idle', { size: session.size, likely, chance: Float32Array.from(likely, v => p ? p[v] : 0) })
}

function stop(ended) {                               // a closing mark is no part of the text
  writing = null
  if (ended) session.keep(session.size - session.closing.length)
  tell('stopped', { ended, size: session.size })
}

function decoded(base64) {
  const text = atob(base64), data = new Uint8Array(text.length)
  for (let i = 0; i < text.length; i++) data[i] = text.charCodeAt(i)
  return data
}

const MESSAGES = {
  begin({ about, data }) {
    session = new Session(new Pico(about.config, weights_of(about.parts, decoded(data))), about.marks)
    tell('ready')
  },
  set({ how }) { session.set(how) },
  text({ keep, bytes }) {
    writing = null
    session.keep(keep)
    session.add(bytes)
  },
  more({ bytes }) { session.add(bytes) },
  write({ how }) {
    session.drafts = []                              // those of an earlier order
    if (session.expected || session.size) writing = how
    else tell('stopped', { ended: false, size: 0 })  // without a mark, nothing says how to begin
  },
  stop() { if (writing) stop(false) },
  look({ at }) { tell('looked', { at, found: at < session.read ? session.look(at) : [] }) },
}

onmessage = ({ data: m }) => {
  version = m.version
  MESSAGES[m.kind](m)
  if (m.kind !== 'begin' && m.kind !== 'look') soon()
}
