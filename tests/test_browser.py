"The page of chapter 14a, driven as a person would, in Chromium and in Firefox: `make test-browser` (see browsers.py)."
import os
import time
import pytest
import browsers
from pico.model import Pico
from pico.page import page
from test_page import random_model

pytestmark = pytest.mark.skipif(not os.environ.get('PICO_BROWSER'), reason='run by `make test-browser`')
LEFT, RIGHT, UP, DOWN, HOME, END = '\ue012', '\ue014', '\ue013', '\ue015', '\ue011', '\ue010'
FIRST = 'Long ago'     # how the first example begins

@pytest.fixture(scope='module')
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp('page')/'pico.html'
    page(Pico.from_pretrained('stories'), max_bytes=300).save(path)
    return path

@pytest.fixture(scope='module', params=[browsers.Chromium, browsers.Firefox], ids=lambda kind: kind.__name__)
def one(request, file):
    if missing := browsers.missing(request.param): pytest.skip(f"{', '.join(missing)} not installed (see browsers.py)")
    b = request.param()
    yield b
    b.close()

@pytest.fixture
def b(one, file):
    "The page, fresh, its first text read; afterwards no error and no request may have been seen."
    one.errors.clear()
    one.requests.clear()
    one.open(file.as_uri())
    read(one)
    yield one
    one.js('1')
    assert one.errors == []
    assert [r for r in one.requests if not r.startswith(('file:', 'blob:', 'data:'))] == []

def read(b, side=0, seconds=60):
    "Wait until all of the text is coloured."
    b.until(f'sides[{side}] && sides[{side}].ready && sides[{side}].store.n === editor.bytes.length '
            f'&& Number(sides[{side}].e.dataset.read) === editor.bytes.length && !at_work', seconds)

def put(b, text):
    "Replace the field's text, as a paste over a selection does."
    b.js(f"(f => {{ f.value = {text!r}; f.dispatchEvent(new Event('input')) }})($('text'))"
         if isinstance(text, str) else f"editor.replace(0, editor.bytes.length, Uint8Array.from({list(text)}))")

def shown(b, side=0): return b.js(f'sides[{side}].pane.where.textContent')
def text_of(b): return bytes(b.js('[...editor.bytes]'))

def test_it_is_there_at_once_and_coloured(b):
    assert shown(b).startswith(FIRST) and b.js("$('text').value") == shown(b)
    paint = b.js("performance.getEntriesByType('paint').filter(e => e.name === 'first-contentful-paint')[0].startTime")
    assert paint < 1000
    assert b.js("document.querySelectorAll('.pane .r').length") > 50
    assert b.js("document.querySelectorAll('.pane .c4, .pane .c5').length") > 5
    assert 'bits per byte' in b.js('sides[0].numbers.textContent')

def test_typing_in_the_middle_reads_from_there(b):
    b.js("(f => { f.focus(); f.setSelectionRange(5, 5) })($('text'))")
    b.keys('é!')
    read(b)
    assert text_of(b).startswith('Long é!ago'.encode())
    assert shown(b) == text_of(b).decode() == b.js("$('text').value")
    b.click("$('undo')")
    b.click("$('undo')")
    read(b)
    assert shown(b).startswith(FIRST)

def test_a_byte_tells_about_itself(b):
    b.move("[...document.querySelectorAll('.pane .r')][30]")
    b.until("$('places').children.length === 8")
    assert b.js("$('here').children.length") == b.js("$('next').children.length") == 10
    what = b.js("$('what').textContent")
    assert 'It was routed' in what and 'probability' in what
    assert b.js("document.querySelectorAll('.pane .look').length") > 0
    for k in ('block', 'head'):
        b.js(f"(s => {{ s.selectedIndex = 2; s.dispatchEvent(new Event('change')) }})($('{k}'))")
    assert b.js("$('places').children.length") == 8
    sums = b.js('chosen.found.map(f => f.shares.reduce((a, b) => a + b))')
    looks = b.js('ABOUT.config.latent_num_blocks * ABOUT.config.att_q_heads')
    assert len(sums) == looks == 12 and all(abs(s - 1) < 1e-4 for s in sums)

def test_keys_go_from_byte_to_byte(b):
    put(b, 'a é 😀 b')
    read(b)
    b.js("sides[0].pane.where.focus()")
    b.keys(HOME)
    places = []
    for _ in range(5):
        places.append(b.js('chosen.at'))
        b.keys(RIGHT)
    assert places == [0, 1, 2, 3, 4]
    assert 'byte 1 of 4' in b.js("$('what').textContent")         # the emoji, at place 5
    b.keys(END)
    assert b.js('chosen.at') == len('a é 😀 b'.encode()) - 1
    b.keys(UP)
    assert b.js('sides[0].store.routed[chosen.at]') == 1

def test_writing_stopping_going_on_and_undo(b):
    put(b, 'Once upon a time')
    read(b)
    b.js("$('most').value = 120")
    b.click("$('write')")
    read(b)
    first = text_of(b)
    assert len(first) > 60 and first.startswith(b'Once upon a time')
    b.click("$('undo')")
    read(b)
    assert text_of(b) == b'Once upon a time'
    b.js("$('most').value = 40")                                  # the same seed, in three parts, with drafts
    b.js("$('draft').checked = true")
    for _ in range(3):
        b.click("$('write')")
        read(b)
    assert text_of(b) == first
    assert b.js("document.querySelectorAll('.pane .d').length") > 0
    b.js("$('most').value = 100000")
    b.click("$('write')")
    b.until('editor.bytes.length > 150')
    if b.js('at_work'): b.click("$('write')")
    read(b)
    assert shown(b) == b.js("$('text').value")

def test_switches(b):
    def choose(router):
        b.js(f"(r => {{ r.value = '{router}'; r.dispatchEvent(new Event('change')) }})(sides[0].router)")
        read(b)
        return b.js('sides[0].store.summary')
    own = b.js('sides[0].store.summary')
    assert b.js('sides[0].warning.hidden')
    every, nothing, chance = (choose(r) for r in ('all', 'none', 'random'))
    assert every['routed'] == 1 and nothing['routed'] == 0 and .15 < chance['routed'] < .35
    assert own['bits'] < min(every['bits'], nothing['bits'], chance['bits']) and not b.js('sides[0].warning.hidden')
    assert choose(b.js('ABOUT.config.router'))['bits'] == own['bits']
    b.click('sides[0].latent')
    read(b)
    assert b.js('sides[0].store.summary')['routed'] == 0
    b.click("$('write')")
    b.until('at_work')
    b.click('sides[0].latent')                                    # what it was writing with is gone
    assert not b.js('at_work') and b.js("$('write').textContent") == 'Write on'

def test_two_settings_side_by_side(b):
    b.click("$('compare')")
    b.until('sides.length === 2')
    read(b, 1)
    b.js("(r => { r.value = 'none'; r.dispatchEvent(new Event('change')) })(sides[1].router)")
    read(b, 1)
    b.js("$('most').value = 50")
    b.click("$('write')")
    read(b)
    read(b, 1)
    assert shown(b, 0) == shown(b, 1)
    one, two = (b.js(f'sides[{i}].store.summary') for i in (0, 1))
    assert one['routed'] > 0 == two['routed'] and one['bits'] < two['bits']
    b.click("$('compare')")
    b.until('sides.length === 1')

def test_it_fits_a_telephone(b):
    "Nothing sticks out to the side, of one text or of two, and what one needs is large enough to be touched."
    b.command('browsingContext.setViewport', context=b.context, viewport=dict(width=375, height=700))
    try:
        b.until('innerWidth === 375')
        for sides in (1, 2):
            if sides == 2: b.click("$('compare')")
            b.until(f'sides.length === {sides}')
            read(b, sides - 1)
            assert b.js('document.documentElement.scrollWidth') <= 375
            edges = b.js("""[...document.querySelectorAll('button, select, input, textarea, .pane')]
                .map(e => e.getBoundingClientRect()).filter(r => r.width).map(r => [r.left, r.right])""")
            assert min(left for left, _ in edges) >= 0 and max(right for _, right in edges) <= 375
        assert b.js("$('write').getBoundingClientRect().height") >= 24
    finally: b.command('browsingContext.setViewport', context=b.context, viewport=None)

def test_every_example_has_a_question_and_an_answer(b):
    for i in range(5):
        b.click(f"$('examples').querySelectorAll('button')[{i}]")
        read(b)
        assert len(text_of(b)) > 40 and '?' in b.js("$('question').firstElementChild.textContent")
        assert len(b.js("$('question').lastElementChild.textContent")) > 60
    assert '😀' in shown(b)

def test_hostile_text_is_text(b):
    hostile = '<script>hit = 1</script><img src=x onerror="hit = 1">&amp;'
    put(b, hostile + '\x00')
    read(b)
    assert shown(b) == hostile + '␀' and b.js('typeof hit') == 'undefined'
    b.js("(f => { f.value = 'a\\ud800b'; f.dispatchEvent(new Event('input')) })($('text'))")     # half a character
    read(b)
    assert text_of(b) == 'a\ufffdb'.encode()
    broken = b'a\xff\xe2\x82 \xf0\x9f\x98\x80\xf0\x9f\r\n\xc3'
    put(b, broken)
    read(b)
    assert text_of(b) == broken and shown(b) == broken.decode('utf-8', 'replace').replace('\r', '␍')
    b.js("(f => { f.focus(); f.setSelectionRange(1, 1) })($('text'))")
    b.keys('x')
    read(b)
    assert text_of(b) == b'ax' + broken[1:]                       # what was not touched stays, broken or not

def test_five_kilobytes_in_three_seconds_and_a_hundred_without_blocking(b):
    start = time.monotonic()
    put(b, 'The cat sat by the river and sang. ' * 143)
    read(b)
    took = time.monotonic() - start
    b.js("""(() => { let last = performance.now(); window.gap = 0; window.frames = 0
      const tick = () => { const now = performance.now(); gap = Math.max(gap, now - last); last = now; frames++
        requestAnimationFrame(tick) }; requestAnimationFrame(tick) })()""")
    put(b, 'The dog ran home. ' * 5556)                           # 100,008 bytes
    b.js("$('text').focus()")
    b.keys('abc')                                                 # typed while it reads
    b.until("editor.bytes.length === 100011", 20)
    read(b, seconds=300)
    gap, frames, elements = b.js("[gap, frames, document.querySelectorAll('.pane span').length]")
    print(f'{took:.2f} s for 5 kB; longest pause while 100 kB were read: {gap:.0f} ms, {frames} frames')
    assert frames > 20 and elements < 20_000                      # only what is in sight has elements
    assert b.js('sides[0].pane.where.textContent.length') == 100011
    assert took < 10                                              # 3 s on a quiet machine; this one may be busy

def test_a_learned_router_tells_its_score(one, tmp_path):
    "Another model, with 8-bit weights, inside a frame as a notebook shows it."
    p = page(random_model('rising'), title='<b>a frame</b>', dtype='int8', max_bytes=300)
    (tmp_path/'frame.html').write_text(f'<!doctype html><meta charset="utf-8">{p._repr_html_()}', encoding='utf-8')
    one.errors.clear()
    one.open((tmp_path/'frame.html').as_uri())
    one.until("document.querySelector('iframe').contentDocument.querySelectorAll('.pane .r').length > 5")
    frame = one.command('browsingContext.getTree', root=one.context)['contexts'][0]['children'][0]['context']
    outer, one.context = one.context, frame
    try:
        read(one)
        assert one.js("document.querySelector('h1').textContent") == '<b>a frame</b>'
        one.js('choose_byte(sides[0], sides[0].store.routed.indexOf(1))')
        assert 'score' in one.js("$('what').textContent") and 'weight' in one.js("$('what').textContent")
        one.until("$('places').children.length > 0")
    finally: one.context = outer
    assert one.errors == []
