'use strict'

const LEVELS = [.5, 1, 2, 4, 8]
function level(bits) { return LEVELS.filter(l => bits >= l).length }

function classes(bits, routed, drafted) {            // of a character: NaN bits have no colour
  return [level(bits) ? `c${level(bits)}` : '', routed ? 'r' : '', drafted ? 'd' : ''].filter(c => c).join(' ')
}

function visible(text) {                             // a picture for every control character but newline and tab
  const picture = c => String.fromCharCode(c === '\x7f' ? 0x2421 : 0x2400 + c.charCodeAt(0))
  return text.replace(/[\x00-\x08\x0b-\x1f\x7f]/g, picture)
}

function first_character(bytes, i) {                 // the character that begins at i, and how many bytes it has
  const v = bytes[i], n = v < 0x80 ? 1 : v < 0xc2 || v > 0xf4 ? 0 : v < 0xe0 ? 2 : v < 0xf0 ? 3 : 4
  if (n < 2) return [n ? String.fromCharCode(v) : '\ufffd', 1]
  // a second byte that would make the number too small, a surrogate, or too large does not belong to it
  const low = { 0xe0: 0xa0, 0xf0: 0x90 }[v] || 0x80, high = { 0xed: 0x9f, 0xf4: 0x8f }[v] || 0xbf
  let point = v & (0x7f >> n)
  for (let k = 1; k < n; k++) {
    const next = bytes[i+k]                          // undefined beyond the end, which is in no range
    if (!(next >= (k === 1 ? low : 0x80) && next <= (k === 1 ? high : 0xbf))) return ['\ufffd', k]
    point = point << 6 | next & 0x3f
  }
  return [String.fromCodePoint(point), n]
}

function characters(bytes) {                         // [character, start, stop] of a text
  const out = []
  for (let i = 0; i < bytes.length;) {
    const [c, n] = first_character(bytes, i)
    out.push([c, i, i + n])
    i += n
  }
  return out
}
