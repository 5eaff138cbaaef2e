"""Draws the parts of Pico: writes the SVG files of the book beside this script (python nbs/images/draw.py).

A box brings its own colours and is legible on any page. What stands outside boxes is a middle grey in both themes,
because the theme that a picture is told of is not always that of the page around it.
"""
from html import escape
from math import cos, pi, sin
from pathlib import Path

# the kinds of boxes: fill, line and text, then fill and text in a dark theme; a row names a kind by its first letter
COLOURS = dict(plain=('#eceff3', '#7d8794', '#1c222b', '#2a3038', '#e9edf2'),
               blue=('#bfdcf8', '#2f7fcb', '#0d2238', '#17426d', '#e6f1fc'),
               orange=('#fbd38d', '#c47600', '#33220a', '#6d4500', '#fff0d6'),
               green=('#c3e6c4', '#3c9444', '#10290f', '#1f5026', '#e4f6e4'),
               red=('#f8cfcb', '#cc4a3f', '#3d0f0a', '#6e231c', '#fde7e4'),
               dashed=('#f7f8fa', '#8a939f', '#4a5360', '#1b1f24', '#b3bbc5'),
               frame=('none', '#d9730d', '#777', 'none', '#777'))
KINDS = {name[0]: name for name in COLOURS}
STYLE = """
rect { stroke-width: 1.5; rx: 4px; }
.dashed rect, path.dashed { stroke-dasharray: 4 3; }
.frame rect { stroke-width: 2.5; } .out { fill: #777; }
path { stroke: #808790; stroke-width: 2; fill: none; } marker path { fill: #808790; stroke: none; }
"""
for name, (fill, line, words, dark, light) in COLOURS.items():
    STYLE += f""".{name} rect {{ fill: {fill}; stroke: {line}; }} .{name} text {{ fill: {words}; }}
@media (prefers-color-scheme: dark) {{ .{name} rect {{ fill: {dark}; }} .{name} text {{ fill: {light}; }} }}
"""
HEAD = ('<defs><marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="5" markerHeight="5" orient="auto">'
        '<path d="M0 0L10 5L0 10z"/></marker></defs>')

class Drawing:
    "A picture, 860 wide, made by a function whose docstring is its title and what those should know who cannot see it."
    def __init__(self, draw, height:int):
        title, about = ' '.join(draw.__doc__.split()).split(': ', 1)
        size = f'viewBox="0 0 860 {height}" width="860" height="{height}" font-family="system-ui, sans-serif"'
        self.parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-labelledby="title about">',
            f'<title id="title">{escape(title)}</title>', f'<desc id="about">{escape(about)}</desc>',
            f'<style>{STYLE}</style>', HEAD]
        draw(self)
        self.parts.append('</svg>\n')

    def text(self, x, y, words, size, anchor, look=''):
        "One line; y is its middle."
        self.parts.append(f'<text x="{x:g}" y="{y + .35*size:g}" font-size="{size}" text-anchor="{anchor}"{look}>'
                          f'{escape(words)}</text>')

    def label(self, x, y, words, anchor='start', size=13):
        "Words on the page itself."
        for i, line in enumerate(words.split('\n')): self.text(x, y + 1.3*size*i, line, size, anchor, ' class="out"')

    def labels(self, *several):
        "Labels, each with x, y and words."
        for x, y, words in several: self.label(x, y, words)

    def box(self, x, y, w, h, words='', kind='plain', size=13):
        "A box with lines of text in its middle, which have to fit."
        lines = words.split('\n')
        widest = .56 * size * max(map(len, lines)) if len(words) > 1 else 0
        assert widest <= w and 1.3 * size * len(lines) <= h + 4, f'{words!r} does not fit'
        self.parts.append(f'<g class="{kind}"><rect x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}"/>')
        for i, line in enumerate(lines if words else []):
            self.text(x + w/2, y + h/2 + 1.3*size*(i - (len(lines)-1)/2), line, size, 'middle')
        self.parts.append('</g>')

    def row(self, x, y, cells, kinds, w=40, h=32):
        "Boxes side by side; `kinds` has a letter for each."
        for i, words in enumerate(cells): self.box(x + i*w, y, w - 3, h, words, KINDS[kinds[i]])

    def keys(self, y, **kinds):
        "What colours mean: for each its x and words."
        for kind, (x, words) in kinds.items():
            self.box(x, y, 30, 24, '', kind)
            self.label(x + 38, y + 12, words)

    def path(self, *at, head=True, dashed=False):
        "A line through points, x and y in turn; with a head it is an arrow."
        points = 'L'.join(f'{x:g} {y:g}' for x, y in zip(at[::2], at[1::2], strict=True))
        look = (' class="dashed"' if dashed else '') + (' marker-end="url(#head)"' if head else '')
        self.parts.append(f'<path d="M{points}"{look}/>')

def model(d):
    """A Pico, from bytes to byte heads: "Mia has a cat." goes through embedding and full-byte blocks. The spaces and
    the full stop are routed through the latent blocks; the change of each is added at its own place, a share to the
    bytes after it. Full-byte blocks, norm and byte heads follow. The shape is that of nano, the rule is space."""
    text, x, w = 'Mia␣has␣a␣cat.', 20, 40
    routed, wide = [i for i, c in enumerate(text) if c in '␣.'], w*len(text) - 3
    d.row(x, 14, text, 'p' * len(text))
    full = '2 full-byte blocks: every byte looks 16 bytes back'
    bars = [(66, 'embedding: each byte becomes a vector of 96 numbers', 'plain'), (118, full, 'blue'),
            (170, 'router: which bytes deserve depth?', 'orange'), (434, full, 'blue'), (486, 'norm', 'plain'),
            (538, '4 byte heads: after each byte, the 4 that come next', 'green')]
    for y, words, kind in bars:
        d.path(300, y - 18, 300, y - 2)
        d.box(x, y, wide, 34, words, kind)
    for i in range(len(text)): d.path(x + w*i + 18, 256, x + w*i + 18, 350)
    d.row(x, 222, text, ['o' if i in routed else 'p' for i in range(len(text))])
    d.box(120, 282, 360, 34, 'the state of every byte stays as it is, and …')
    d.box(640, 210, 210, 192, '', 'dashed')
    d.row(666, 222, '␣␣␣.', 'oooo')
    d.box(654, 276, 182, 58, '2 latent blocks: they see\nrouted bytes alone,\nup to 256 of them back', 'blue', 12)
    d.row(666, 352, ['d₁', 'd₂', 'd₃', 'd₄'], 'oooo')
    for n in range(8): d.path(684 + 40*(n % 4), 256 + 80*(n // 4), 684 + 40*(n % 4), 274 + 76*(n // 4))
    d.box(x, 352, 3*w - 3, 32, 'nothing yet', 'dashed')
    for i, end, n in zip(routed, routed[1:] + [len(text)], '₁₂₃₄', strict=True):
        d.row(x + w*i, 352, [f'+d{n}'], 'o')
        share = f'share of d{n}' if end - i > 2 else 'share'
        if end > i + 1: d.box(x + w*(i+1), 352, w*(end-i-1) - 3, 32, share, 'dashed', 12)
    d.row(x + 4*w, 596, 'has␣', 'gggg')
    for at in ((582, 238, 660, 238), (664, 368, 584, 368), (158, 574, 158, 612, 176, 612)): d.path(*at)
    d.labels((600, 30, 'the bytes; ␣ is a space'), (590, 220, 'pack'), (588, 392, 'unpack'),
             (x, 400, '… the change d of a routed byte is added, a share of it to the bytes after it'),
             (x + 8*w + 10, 612, 'what the heads should say after the first space'))

def pack(d):
    """Pack and unpack: of the six bytes "a cat." two are routed. Their states are gathered, go through the latent
    blocks, and their changes, times the weight of each byte, are added where they came from. The bytes after them get a
    share. In a batch a row with fewer routed bytes is padded with an unrouted one of its own."""
    x, w, text = 150, 70, 'a␣cat.'
    d.labels((20, 30, 'states x'), (20, 78, 'pack: positions 1, 5'), (20, 124, 'packed'), (20, 262, 'change d'),
             (20, 310, 'unpack: each back to its place'), (20, 356, 'result y'), (20, 412, 'with carrying'),
             (468, 190, 'two bytes, not six'), (440, 262, 'router weights .88, .73'),
             (620, 30, 'two rows of a batch'), (620, 268, 'dashed: padding, an unrouted\nbyte of the same row'))
    d.row(x, 14, text, 'popppo', w)
    d.row(x + 2*w, 108, '␣.', 'oo', w)
    d.box(x + 110, 172, 197, 36, 'latent blocks', 'blue')
    d.row(x + 2*w, 246, ['.88·d₁', '.73·d₂'], 'oo', w)
    for place, packed in ((1, 2), (5, 3)):
        there, here = x + w*place + 33, x + w*packed + 33
        d.path(there, 48, here, 106)
        for y, end in ((142, 170), (210, 244)): d.path(here, y, here, end)
        d.path(here, 280, there, 338)
    d.row(x, 340, ['x', 'x+.88·d₁', 'x', 'x', 'x', 'x+.73·d₂'], 'popppo', w)
    d.row(x, 396, ['nothing'], 'd', w)
    d.box(x + 2*w, 396, 3*w - 3, 32, 'a share of .88·d₁', 'dashed')
    d.path(x + w + 33, 374, x + w + 33, 412, x + 2*w - 2, 412)
    for y, kinds, packed, real, many in ((54, 'popppo', '␣.a', 'ood', 2), (92, 'oopopp', 'a␣a', 'ooo', 3)):
        d.row(620, y, text, kinds, 38)
        d.row(620, y + 110, packed, real, 38)
        d.label(744, y + 126, f'{many} real')
    d.path(676, 128, 676, 160)

def window(d):
    """A window is a band of the score matrix: twelve queries by twelve keys, window 3. The scores that count lie on a
    band four wide. Four frames, three queries high and six keys wide, cover it, the first from before the beginning of
    the text. The distances in a frame are always the same. In the code a block has at least 16 queries."""
    text, W, x, y, c = 'the␣red␣kite', 3, 122, 56, 26
    T = len(text)
    d.labels((x, 14, 'key: the byte that is looked at'), (16, 40, 'query'),
             (480, 40, 'one frame, with how far back each key lies'),
             (480, 206, 'the same in all frames: one tile of bias serves all'),
             (x, 390, f'window {W}: a byte looks {W} bytes back and at itself; blocks of {W} queries'))
    d.row(x, 26, text, 'p' * T, c, 24)
    d.box(x, y, T*c - 3, T*c - 3)
    d.box(x - W*c, y, W*c - 3, W*c - 3, 'nothing\nis here', 'dashed', 12)
    inside = [(i, j) for i in range(T) for j in range(max(0, i//W*W - W), i//W*W + W)]
    seen = sum(i - W <= j <= i for i, j in inside)
    for i in range(T): d.row(16, y + c*i, text[i], 'p', c, c - 3)
    for i, j in inside: d.row(x + c*j, y + c*i, [''], 'b' if 0 <= i - j <= W else 'd', c, c - 3)
    for b in range(0, T, W): d.box(x + (b-W)*c - 1, y + b*c - 1, 2*W*c - 1, W*c - 1, '', 'frame')
    for i in range(W):
        cells = [str(W + i - j) if i <= j <= W + i else '' for j in range(2*W)]
        d.row(480, y + 44*i, cells, ['b' if words else 'd' for words in cells], 44, 41)
    d.box(479, y - 1, 6*44 - 1, 3*44 - 1, '', 'frame')
    for y, kind, many, words in ((240, 'plain', T*T, 'all scores'), (324, 'blue', seen, 'scores that count'),
                                 (282, 'dashed', 2*W*T, 'scores that the frames compute')):
        d.box(480, y, 60, 32, str(many), kind)
        d.label(552, y + 16, words)

def ring(d):
    """The ring of a cache as it turns: six slots, for a window of 3 and two bytes that can be taken back. Byte 9 looks
    at 6 to 9. Then byte 10 is written over byte 4 in slot 4 and looks at 7 to 10. It is taken back: byte 9 finds 6 to 9
    again, and slot 4 is hidden."""
    panels = [(140, 9, 9, 'byte 9 has been read'), (430, 10, 10, 'byte 10 overwrites byte 4'),
              (720, 10, 9, 'byte 10 is taken back')]
    for cx, newest, p, title in panels:
        d.label(cx, 16, title, 'middle', 15)
        d.label(cx, 192, f'byte {p}\nlooks', 'middle')
        places = [(cx + 105*sin(s*pi/3), 200 - 112*cos(s*pi/3)) for s in range(6)]
        d.path(*(v for place in [*places, places[0]] for v in place), head=False)
        for s, (bx, by) in enumerate(places):
            back, byte = (p - s) % 6, newest - (newest - s) % 6
            kind = 'orange' if byte == p else 'blue' if back <= 3 else 'dashed'
            words = f'byte {byte}' if byte <= p else f'({byte})'
            d.box(bx - 41, by - 31, 82, 62, f'slot {s}\n{words}\n{back} back', kind)
    for at in (256, 560): d.path(at, 16, at + 44, 16)
    d.keys(358, orange=(130, 'the byte that looks'), blue=(330, 'what it sees'), dashed=(490, 'hidden: over 3 back'))

def ragged(d):
    """Rows of different length in one batch: a call brings four bytes, of which two of row 1 are padding. That is
    written to slot 6, beyond the ring. The next byte of row 0 goes to slot 4 and sees slots 1 to 4, that of row 1 goes
    to slot 2 and sees slots 0 to 2."""
    x, w = 330, 54
    for top, words in ((14, 'a call brings four bytes: lengths = [4, 2]'), (214, 'the next call brings one byte')):
        d.labels((20, top, words), (x, top, 'the ring: window 3, two bytes can be taken back'))
        d.row(x, top + 16, [f'slot {s}' for s in range(6)], 'pppppp', w, 24)
        d.box(x + 6*w + 14, top + 16, 64, 24, 'slot 6')
        d.label(x + 6*w - 36, top + 150, 'nobody looks at slot 6')
    calls = [(62, 'cat.', 'oooo', 'cat.', 'oooodd', '', 4), (112, 'on', 'oodd', 'on', 'oodddd', 'padding', 2),
             (262, '␣', 'o', 'cat.␣', 'dbbbod', '', 5), (312, 'e', 'o', 'one', 'bboddd', '', 3)]
    for n, (y, new, kinds, held, marks, beyond, length) in enumerate(calls):
        d.label(20, y + 18, f'row {n % 2}')
        d.row(66, y, new.ljust(len(kinds), '0'), kinds, 42, 36)
        d.path(70 + 42*len(kinds), y + 18, x - 8, y + 18)
        d.row(x, y, held.ljust(6), marks, w, 36)
        d.box(x + 6*w + 14, y, 64, 36, beyond, 'dashed')
        d.box(x + 6*w + 100, y, 86, 36, f'length {length}')
    d.keys(390, orange=(66, 'just written'), blue=(220, 'what the new byte sees as well'),
           dashed=(490, 'hidden: too far back, or never written'))

def heads(d):
    """Chained byte heads: "a cat." is read up to the space. Head 1 sees the final state h and predicts c. A copy of h,
    through which no gradient goes back, becomes a state s. With s and the c, head 2 predicts a and makes the next s.
    With that and the a, head 3 predicts t."""
    x, w, bw = 20, 138, 135
    d.row(x, 14, 'a␣cat.', 'podddd', w, 34)
    d.box(x + w, 84, bw - 16, 40, 'h: the state\nafter ␣', 'orange', 12)
    d.path(x + w + bw/2, 126, x + w + bw/2, 188, dashed=True)
    d.box(x + w, 190, bw, 40, 'start: a copy\nof h becomes s', 'plain', 12)
    steps = ['head 1: linear,\nsees h alone', 'head 2: a step,\nsees s and the c', 'head 3: a step,\nsees s and the a']
    for n, (byte, words) in enumerate(zip('cat', steps, strict=True)):
        left, y = x + (2+n)*w, 84 + 106*n
        d.box(left, y, bw, 40, words, 'blue', 12)
        d.path(left + bw/2, y + 42, left + bw/2, y + 60)
        d.box(left, y + 62, bw, 32, byte, 'green')
        if n == 2: break
        d.path(left + bw + 2, y + 78, left + w + 36, y + 78, left + w + 36, y + 104)
        d.label(left + w + 44, y + 90, f'told {byte}')
    d.path(571, 210, 684, 210, 684, 294)
    for at in ((226, 50, 226, 82), (279, 104, 294, 104), (295, 210, 432, 210)): d.path(*at)
    d.labels((360, 198, 's'), (630, 198, 's'))
    d.box(x, 290, 380, 96, 'in training each is told the byte that really came,\nin writing the byte that was chosen.\n'
          'What the chain learns does not reach the model:\nno gradient goes back through the dashed line.', size=12)

def speculative(d):
    """One round of drafting and verifying: the last byte of "the red k" is not read yet. The heads draft i, t and s,
    and one pass reads k and the drafts. With the same noise the model chooses i, t and e. So s is refused and e is
    written. The cache forgets s, and the next round begins at e."""
    x, w = 372, 60
    lines = [('the text; k is written, not yet read', 'red␣k', 'ppppo', 0),
             ('each place has its row of noise', [f'row {n}' for n in range(9, 13)], 'pppp', 4),
             ('draft: the heads guess, with half of that noise', 'its', 'bbb', 4),
             ('read: one pass over k and the drafts', 'kits', 'obbb', 3),
             ('verify: the model chooses, with that noise', ['i', 't', 'e', 'void'], 'gggd', 4),
             ('roll back: the cache forgets the s', 'kits', 'pggr', 3),
             ('the next round begins with this text', 'kite', 'pggo', 3)]
    for n, (words, cells, kinds, first) in enumerate(lines):
        d.label(20, 30 + 57*n, words)
        d.row(x + w*(first-1), 14 + 57*n, cells, kinds, w)
    d.labels((575, 229, '='), (635, 229, '='), (695, 229, '≠'),
             (20, 420, 'One pass has written i, t and e. Had the s stood, the byte after it would have come free.'))

def blocks_of_a_matrix(d):
    """A matrix in blocks, each with two bases: 744 by 372 numbers are cut into six blocks of 248 by 186. Each has a
    basis for its rows and one for its columns. The gradient of block 3, times both, is in the space where Adam steps.
    All is drawn to one scale."""
    R, C, x, y = 248*.46, 186*.46, 70, 48
    for n, kind in enumerate(['plain'] * 3 + ['orange'] + ['plain'] * 2):
        d.box(x + C*(n % 2), y + R*(n // 2), C - 3, R - 3, f'block {n}', kind)
    for n in range(3): d.label(x - 10, y + R*(n + .5), '248', 'end')
    for n in range(2): d.label(x + C*(n + .5), y + 3*R + 12, '186', 'middle')
    top, left = y + R, 314
    d.path(x + 2*C + 4, top + R/2, left - 12, top + R/2)
    d.labels((x, 20, 'one gradient, 744 × 372'), (left, top - 22, 'seen from its own two bases: one product with each'),
             (left, top + R + 22, 'and its step is rotated back: QL · step · QR transposed'),
             (left, 336, 'this matrix alone: new bases after steps that end in …'),
             (left + R + 7, top + R/2, '×'), (left + R + C + 33, top + R/2, '×'), (left + R + 2*C + 60, top + R/2, '='))
    d.box(left, top, R, R, 'QL transposed,\n248 × 248,\nfor its rows', 'blue', 12)
    d.box(left + R + 26, top, C, R, 'block 3\n248 × 186', 'orange', 12)
    d.box(left + R + C + 52, top, C, C, 'QR,\n186 × 186,\nfor columns', 'blue', 12)
    d.box(left + R + 2*C + 80, top, C, R, 'here\nAdam\nsteps', 'green')
    d.row(left, 352, [f'… {n}' for n in range(10)], 'p' * 10, 54, 26)
    d.row(left, 382, [f'block {n}' for n in range(6)] + [''] * 4, 'oooooodddd', 54, 32)

def lanes(d):
    """Lanes of a stream: three shards and a batch of six rows make three lanes. Each reads its own shard, keeps a
    buffer of text that was not used yet, and fills two rows of every batch. One process takes all rows, each of two
    takes three, each of three takes two."""
    d.labels((20, 16, 'shards'), (170, 16, 'lanes'), (440, 16, 'a batch'), (556, 16, 'one process'),
             (656, 16, 'or two'), (756, 16, 'or three'),
             (20, 390, 'The rows of a batch are the same for any number of processes. With two, both read lane 1.'))
    for n in range(3):
        y = 40 + 112*n
        d.box(20, y + 15, 104, 64, f'{n}.jsonl\n4 stories')
        d.path(126, y + 47, 166, y + 47)
        d.box(170, y, 214, 94, '', 'blue')
        d.box(180, y + 10, 194, 28, f'lane {n}: epoch, position', 'plain', 12)
        d.box(180, y + 46, 194, 38, 'buffer: text that came\nand was not used yet', 'dashed', 12)
        for i in (0, 1):
            d.path(386, y + 24 + 46*i, 434, y + 24 + 46*i)
            d.box(440, y + 4 + 46*i, 84, 40, f'row {2*n + i}', 'orange')
    for at, each in ((556, 6), (656, 3), (756, 2)):
        for r in range(6 // each):
            first, last = each*r, each*(r+1) - 1
            top, bottom = (44 + 112*(k // 2) + 46*(k % 2) for k in (first, last))
            needed = {6: 'all lanes', 3: f'lanes {r}, {r+1}', 2: f'lane {r}'}[each]
            d.box(at, top, 84, bottom + 40 - top, f'process {r}\n{needed}', 'green')

def checkpoint(d):
    """What a killed run keeps: a save makes a folder beside, writes weights, state and manifest, flushes them, renames
    the folder, flushes its name, and removes what is old. Who dies before the rename finds checkpoint 1, afterwards
    checkpoint 2."""
    steps = ['make the folder\n.00000002.tmp', 'write weights\nand state', 'write the\nmanifest',
             'flush files\nand folder', 'rename it to\n00000002', 'flush the\nname', 'remove what\nis too old']
    x, w = 20, 118
    turn, end = x + 4.5*w, x + 7*w - 3
    d.row(x, 30, steps, 'ppppopp', w, 52)
    d.path(turn, 84, turn, 316, head=False, dashed=True)
    d.box(x, 122, end - x, 32, '00000001: whole', 'green')
    d.box(x, 162, turn - x - 4, 32, '.00000002.tmp: in part, and no name that anybody looks for', 'dashed')
    d.box(turn + 4, 162, end - turn - 4, 32, '00000002: whole', 'green')
    d.box(x, 240, turn - x - 4, 52, 'checkpoint 1', 'blue', 15)
    d.box(turn + 4, 240, end - turn - 4, 52, 'checkpoint 2', 'blue', 15)
    d.labels((x, 16, 'a save, from left to right'), (x, 108, 'what stands in the folder of checkpoints'),
             (x, 226, 'if the run dies at that instant, it goes on from'), (x, 376, 'the reader'),
             (turn - 120, 332, 'the rename: as a whole, or not at all'))
    reader = ['the newest first', 'sizes and SHA-256\nas in its manifest?', 'yes: go on from it', 'no: the one before']
    d.row(x + 90, 356, reader, 'ppgo', 184, 40)

def processes(d):
    """Who holds what, with two processes: both hold all weights. Each computes the gradients of its own rows, and they
    are added. Each matrix has one owner, which keeps its optimizer state and makes its step. Then all receive the new
    weights. Rank 0 alone reads and writes the run directory."""
    owners = {32: 1, 64: 0, 96: 0, 128: 1, 160: 1, 192: 0}
    between = {76: 'equal', 166: 'all-reduce', 208: 'equal', 298: 'each its own', 362: 'exchange', 404: 'equal'}
    for y, words in between.items(): d.label(430, y, words, 'middle')
    for k, x in enumerate((20, 480)):
        d.box(x, 14, 360, 30, f'process {k}' + ('' if k else ', which is rank 0'), 'plain', 15)
        d.box(x, 60, 360, 32, 'all weights: six matrices, 64 × 32 to 64 × 192', 'blue')
        d.box(x, 108, 360, 32, f'rows {4*k} to {4*k + 3} of the batch, and their gradients', 'orange')
        d.box(x, 192, 360, 32, 'the gradient of the whole batch', 'blue')
        d.label(x, 246, 'optimizer state of')
        kinds = ['o' if owner == k else 'd' for owner in owners.values()]
        d.row(x, 260, [f'64×{n}' if owner == k else '' for n, owner in owners.items()], kinds, 60.5, 30)
        d.row(x, 308, ['step' if kind == 'o' else '' for kind in kinds], kinds, 60.5, 30)
        d.box(x, 388, 360, 32, 'all new weights', 'blue')
        for y, end in ((94, 106), (142, 190), (226, 256), (292, 306), (340, 386)): d.path(x + 180, y, x + 180, end)
        for y in (166, 362): d.path(x + 180, y, 384 + 92*k, y)
    for at in ((200, 422, 200, 458), (160, 458, 160, 424), (382, 488, 660, 488, 660, 424)): d.path(*at)
    d.box(20, 460, 360, 56, 'the run directory, with weights and states:\nrank 0 alone reads and writes it', 'green')
    d.label(500, 506, 'what it read is broadcast to all')

HEIGHTS = {model: 642, pack: 442, window: 410, ring: 394, ragged: 428, heads: 410, speculative: 440,
           blocks_of_a_matrix: 430, lanes: 406, checkpoint: 410, processes: 530}

if __name__ == '__main__':
    for draw, height in HEIGHTS.items():
        file = Path(__file__).with_name(f'{draw.__name__}.svg')
        file.write_text('\n'.join(Drawing(draw, height).parts), encoding='utf-8')
