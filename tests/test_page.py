"The model in JavaScript equals Python's, and the page is one file that holds only what it should."
import json
import random
import re
import shutil
import subprocess
import sys
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from conftest import call, refused
from pico.cli import commands
from pico.core import InputError
from pico.data import MARKS
from pico.decode import Decoder
from pico.evaluate import surprise
from pico.generate import generate
from pico.javascript import packed, rounded
from pico.model import Pico, PicoConfig
from pico.page import depth, examples, filled, hesitation, page, page_command, page_data
from pico.router import ROUTERS
from pico.show import characters, classes, coloured, export_parts, part
from pico.sources import load_corpus

needs_node = pytest.mark.skipif(not shutil.which('node'), reason='no node here (Debian: apt-get install nodejs)')

@pytest.fixture(scope='module')
def stories(): return Pico.from_pretrained('stories')

def in_node(folder, program, model=None, **about):
    "What a program prints; with a model, the program finds it as `model`, and the text as `text`."
    about |= dict(marks=[list(m) for m in MARKS[model.config.marks if model else 'bytes']])
    begin = "const fs = require('fs'), about = JSON.parse(fs.readFileSync(process.argv[2] + '/about.json'))\n"
    if model:
        parts, data = packed(model, 'float32')
        about |= dict(parts=parts, config=model.config.to_dict())
        (folder/'weights').write_bytes(data)
        begin += '''const model = new Pico(about.config, weights_of(about.parts,
  new Uint8Array(fs.readFileSync(process.argv[2] + '/weights'))))\n'''
    if 'text' in about: begin += 'const text = Uint8Array.from(about.text)\n'
    (folder/'about.json').write_text(json.dumps(about))
    sources = ''.join(part(name) for name in ('show.js', 'model.js', 'session.js'))
    (folder/'run.js').write_text(sources + begin + program, encoding='utf-8')
    out = subprocess.run(['node', '--expose-gc', folder/'run.js', folder], capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    return json.loads(out.stdout)

# pieces of random length, bytes taken back after some of them and read again; the logits go to a file
PIECES = '''
const decoder = new Decoder(model, { max_rollback: 16, ...about.how })
const logits = new Float32Array(256 * text.length), routed = []
for (let i = 0; i < text.length; i++) {
  routed[i] = decoder.read(text[i]).chosen
  logits.set(decoder.logits, 256 * i)
  const back = Math.min(about.back[i], i + 1)
  if (!back) continue
  const copy = decoder.save()
  decoder.forget(back)
  for (let k = i + 1 - back; k <= i; k++) decoder.read((text[k] + about.other) % 256)
  decoder.restore(copy)
  decoder.forget(back)
  for (let k = i + 1 - back; k <= i; k++) decoder.read(text[k])
}
fs.writeFileSync(process.argv[2] + '/logits', new Uint8Array(logits.buffer))
console.log(JSON.stringify(routed))
'''

def compare(folder, model, text, seed=0, **how):
    "The largest difference of logits to one pass in Python, up to the first byte routed differently; how many are."
    rng = random.Random(seed)
    back = [rng.randrange(1, 17) if rng.random() < .05 else 0 for _ in text]
    back[7] = 8                                                   # all of it
    routed = in_node(folder, PIECES, model, text=list(text), how=how, back=back, other=rng.randrange(256))
    theirs = np.frombuffer((folder/'logits').read_bytes(), np.float32).reshape(-1, 256)
    swap_router(model, how)
    with torch.inference_mode(): out = model(torch.tensor([list(text)]), heads=1, latent=how.get('latent', True))
    other = np.flatnonzero(out.routed[0].numpy() != np.array(routed))
    n = other[0] if len(other) else len(text)
    assert n > 100                                                # an early difference is no near tie
    return float(np.abs(out.logits[0,:n,0].numpy() - theirs[:n]).max()), len(other), float(out.routed.float().mean())

def swap_router(model, how):
    "Put the rule that `how` names in the place of the model's router."
    c = model.config
    if 'router' in how: model.latent.router = ROUTERS[how['router']](c.dim, c.latent_capacity_factor)

def random_model(router, seed=0, **fields):
    torch.manual_seed(seed)
    shape = dict(dim=30, att_q_heads=6, att_kv_heads=3, next_tokens=3, fb_num_blocks=2, fb_att_window_size=4,
                 latent_num_blocks=2, latent_att_window_size=9, latent_summary=False, latent_shift=False)
    model = Pico(PicoConfig.preset('nano', router=router, **shape | fields)).eval()
    with torch.no_grad():
        for p in model.parameters(): p.add_(torch.randn_like(p) * (.3 if p.dim() == 1 else .1))
        if router == 'rising': model.latent.router.pairs.copy_(torch.rand(256, 256) < .2)
        if router == 'threshold': model.latent.router.quantile.value.fill_(.2)
    return model

@needs_node
@pytest.mark.parametrize('router', 'rising tuned words topk threshold space whitespace stride random all none'.split())
@pytest.mark.parametrize('fields', [dict(positions='alibi'), dict(positions='relative'), dict(positions='none'),
                                    dict(positions='rope', latent_carry=True, heads='linear'),
                                    dict(latent_summary=True, latent_shift=True)], ids=str)
def test_logits_are_pythons(router, fields, tmp_path):
    text = np.random.default_rng(3).integers(0, 256, 600).astype(np.uint8).tobytes()
    worst, other, share = compare(tmp_path, random_model(router, **fields), text)
    assert worst < 1e-4 and other <= 1 and (share > 0) == (router != 'none')

@needs_node
@pytest.mark.parametrize('how', [{}, dict(latent=False), *(dict(router=r) for r in (
    'whitespace', 'random', 'stride', 'all', 'none'))], ids=str)
def test_logits_of_the_bundled_model_are_pythons(how, tmp_path):
    text = load_corpus('stories', 'validation').read(0, 3000)[0].astype(np.uint8).tobytes()
    worst, other, _ = compare(tmp_path, Pico.from_pretrained('stories'), text, **how)
    assert worst < 1e-4 and other == 0

@needs_node
@pytest.mark.parametrize('shape', [
    dict(fb_num_blocks=0), dict(latent_num_blocks=0), dict(fb_att_window_size=0), dict(latent_att_window_size=0),
    dict(next_tokens=1), dict(dim=31, att_q_heads=3)], ids=str)
def test_odd_shapes(shape, tmp_path):
    text = np.random.default_rng(4).integers(0, 256, 300).astype(np.uint8).tobytes()
    worst, other, _ = compare(tmp_path, random_model('rising', **shape), text)
    assert worst < 1e-4 and other == 0

GREEDY = '''
const session = new Session(model, [about.marks[0], []]), out = []
session.add(text)
while (session.some(1000, Infinity));
const { facts } = session.write(about.n, { temperature: 0, top_p: 1, seed: 0, draft: about.draft }, Infinity)
console.log(JSON.stringify([...facts.bytes.subarray(0, facts.n)]))
'''

def near_ties(model, start, text):
    "How many bytes of a greedy text are near ties in Python, and which of the others it would not have chosen."
    d = Decoder(model)
    _, z, *_ = d.read([list(MARKS[model.config.marks][0] + start + text)])
    z = z[-len(text)-1:-1]
    best = np.sort(z, 1)
    near = best[:,-1] - best[:,-2] < 1e-4
    return int(near.sum()), np.flatnonzero((z.argmax(1) != list(text)) & ~near)

@needs_node
@pytest.mark.parametrize('draft', [False, True])
def test_greedy_text_is_pythons_over_2000_bytes(draft, stories, tmp_path):
    start = b'Once upon a time'
    theirs = bytes(in_node(tmp_path, GREEDY, stories, text=list(start), n=2000, draft=draft))
    ties, wrong = near_ties(stories, start, theirs)
    assert len(theirs) == 2000 and not len(wrong) and ties < 5
    ours = generate(stories, start, max_bytes=2000, temperature=0).bytes        # which ends at a closing mark
    assert theirs.startswith(ours) and len(ours) > 100

SESSION = '''
function all(session) {
  const out = { cost: [], routed: [] }
  for (let f; f = session.some(1 + about.seed % 300, Infinity);)
    for (const k in out) out[k].push(...f[k].subarray(0, f.n))
  return out
}
const session = new Session(model, about.marks)
session.set(about.how)
let seed = about.seed
const draw = n => { seed = mixed(seed + 1); return seed % n }
for (let i = 0; i < 12; i++) {                       // other bytes, taken back again
  session.add(text.slice(session.size, session.size + draw(700)))
  if (draw(2)) session.add(Uint8Array.from({ length: draw(40) }, () => draw(256)))
  if (draw(4)) all(session)
  let same = 0
  while (same < session.size && session.text[same] === text[same]) same++
  session.keep(draw(3) ? same : Math.min(same, draw(text.length)))
}
session.add(text.slice(session.size))
all(session)
session.keep(500 + draw(1000))
const from = session.size
session.add(text.slice(from))
console.log(JSON.stringify({ from, ...all(session) }))
'''

@needs_node
@pytest.mark.parametrize('seed', range(4))
@pytest.mark.parametrize('how', [{}, dict(router='random'), dict(latent=False)], ids=str)
def test_a_session_can_be_cut_and_changed_anywhere(seed, how, stories, tmp_path):
    text = load_corpus('stories', 'validation').read(1, 2001)[0].astype(np.uint8).tobytes()
    r = in_node(tmp_path, SESSION, stories, text=list(text), seed=seed + 10, how=how)
    model = Pico.from_pretrained('stories')
    swap_router(model, how)
    s = surprise(model, text, latent=how.get('latent', True))
    bits, routed = s.bits[s.text][r['from']:], s.routed[s.text][r['from']:]
    assert len(bits) == len(r['cost']) > 400 and np.abs(bits - r['cost']).max() < 1e-3
    assert routed.tolist() == [v > 0 for v in r['routed']]

SEEDS = '''
function write(n, how, parts = 1) {
  const session = new Session(model, [about.marks[0], []]), out = []
  session.add(text)
  while (session.some(1000, Infinity));
  for (let i = 0; i < parts; i++) {
    const { facts } = session.write(n / parts, how, Infinity)
    out.push(...facts.bytes.subarray(0, facts.n))
  }
  return out
}
const how = { temperature: 1, top_p: .9, seed: 5 }
const drafted = write(300, { ...how, draft: true }, 3), other = write(300, { ...how, seed: 6 })
console.log(JSON.stringify([write(300, how), write(300, how, 6), drafted, other]))
'''

@needs_node
def test_a_seed_writes_the_same_text_in_parts_and_with_drafts(stories, tmp_path):
    once, parts, drafted, other = in_node(tmp_path, SEEDS, stories, text=list(b'The '))
    assert once == parts == drafted != other and len(once) == 300

ENDS = '''
const found = []
for (const marks of [[[254], [255]], [[60, 112], [60, 47, 112, 62]], [[], []]]) {
  const session = new Session(model, marks), closing = Uint8Array.from(marks[1])
  session.add(Uint8Array.from([97, ...closing.slice(0, -1)]))
  const before = session.ended()
  session.add(closing.slice(-1))
  const after = session.ended()
  session.keep(session.size - closing.length)
  found.push([before, after, session.size, session.expected !== null])
}
console.log(JSON.stringify(found))
'''

@needs_node
def test_a_closing_mark_of_any_length_ends_a_text(stories, tmp_path):
    one, several, none = in_node(tmp_path, ENDS, stories)
    assert one == several == [False, True, 1, True]
    assert none == [False, False, 1, False]                       # without marks nothing ends it, or says how it begins

NOISE = '''
let mean = 0, square = 0, n = 0
for (let place = 0; place < 400; place++) for (const x of noise(about.seed, place)) { mean += x; square += x * x; n++ }
const counts = [0, 0, 0], s = new Float64Array(256).fill(-Infinity)
s[0] = Math.log(.5); s[1] = Math.log(.3); s[2] = Math.log(.2)
for (let place = 0; place < 20000; place++) counts[choose(s, noise(about.seed, place))]++
console.log(JSON.stringify({ mean: mean / n, spread: square / n - (mean / n) ** 2, counts }))
'''

@needs_node
def test_noise_is_gumbels_and_draws_fairly(tmp_path):
    for seed in (0, 1, 4294967295):
        r = in_node(tmp_path, NOISE, seed=seed)
        assert abs(r['mean'] - .5772) < .02 and abs(r['spread'] - np.pi**2/6) < .05      # 102,400 numbers: 4 sigma
        assert all(abs(c/20000 - p) < .014 for c, p in zip(r['counts'], (.5, .3, .2), strict=True))

@needs_node
def test_top_p_and_temperature_are_pythons(tmp_path):
    from pico.speculative import byte_probabilities
    z = (np.random.default_rng(0).standard_normal(256) * 3).astype(np.float32)
    program = '''const z = Float32Array.from(about.z), out = []
for (const [t, p] of about.ways) out.push([...scores(z, t, p)].map(x => x === -Infinity ? null : x))
console.log(JSON.stringify(out))'''
    ways = [(1, 1), (.5, .9), (2, .3), (.1, .05)]
    for (t, p), s in zip(ways, in_node(tmp_path, program, z=z.tolist(), ways=ways), strict=True):
        mine = np.array([-np.inf if x is None else x for x in s])
        mine = np.exp(mine - mine.max())
        np.testing.assert_allclose(mine / mine.sum(), byte_probabilities(z, t, p), atol=1e-9)

@needs_node
def test_characters_and_classes_are_pythons(tmp_path):
    rng = random.Random(0)
    pieces = ['a', 'é', '€', '😀', '\n', '\x00', '\x7f']
    texts = [bytes(rng.choices(range(256), k=rng.randrange(9))) for _ in range(2000)]
    edges = [0x41, 0x80, 0x9f, 0xa0, 0xbf, 0xc2, 0xe0, 0xed, 0xef, 0xf0, 0xf4, 0xf5]
    texts += [bytes(rng.choices(edges, k=6)) for _ in range(3000)]
    texts += [''.join(rng.choices(pieces, k=20)).encode()[rng.randrange(3):] for _ in range(300)]
    program = '''console.log(JSON.stringify({ characters: about.texts.map(t => characters(Uint8Array.from(t))),
  classes: about.bits.map(b => classes(b === null ? NaN : b, b > 1, b > 3)) }))'''
    bits = [None, 0, .49, .5, 1, 1.9, 2, 3.99, 4, 7, 8, 100]
    r = in_node(tmp_path, program, texts=[list(t) for t in texts], bits=bits)
    for t, theirs in zip(texts, r['characters'], strict=True): assert [tuple(c) for c in theirs] == characters(t), t
    assert r['classes'] == [classes(float('nan') if b is None else b, (b or 0) > 1, (b or 0) > 3) for b in bits]

@needs_node
@pytest.mark.parametrize('dtype', ['float32', 'float16', 'bfloat16', 'int8'])
def test_packed_weights_come_out_the_same_in_both(dtype, tmp_path):
    model = random_model('rising')
    with torch.no_grad():                                         # denormals, zeros, a row of zeros, the largest half
        model.embedding.weight[0] = 0
        model.embedding.weight[1,:4] = torch.tensor([6e-8, -6e-6, 0., 65504.])
    parts, data = packed(model, dtype)
    (tmp_path/'data').write_bytes(data)
    program = '''const w = weights_of(about.parts, new Uint8Array(fs.readFileSync(process.argv[2] + '/data')))
console.log(JSON.stringify(Object.fromEntries(Object.entries(w).map(([k, v]) => [k, [...v]]))))'''
    theirs, ours = in_node(tmp_path, program, parts=parts), rounded(model, dtype).state_dict()
    assert theirs.keys() == ours.keys()
    for k, v in ours.items(): assert torch.tensor(theirs[k]).equal(v.float().flatten()), k

@needs_node
@pytest.mark.slow
def test_memory_is_flat_over_100000_bytes(stories, tmp_path):
    program = '''const session = new Session(model, about.marks), used = []
for (let i = 0; i < 10; i++) {
  session.add(Uint8Array.from({ length: 10000 }, (_, k) => text[k % text.length]))
  while (session.some(500, Infinity));
  gc()
  used.push([session.copies.length, session.decoder.latent.kv.length, process.memoryUsage().arrayBuffers])
}
console.log(JSON.stringify(used))'''
    used = in_node(tmp_path, program, stories, text=list(b'The cat sat by the river. '))
    assert all(copies <= 64 for copies, *_ in used) and len({kv for _, kv, _ in used}) == 1
    assert max(size for *_, size in used) < 64 * 330_000 + 10e6   # 64 copies at most, the weights, facts on their way
    print(*(f'{copies} copies, {size:,} bytes in arrays' for copies, _, size in used), sep='\n')

# the page as a file

def test_the_page_is_one_file_under_four_megabytes(stories):
    p = page(stories, max_bytes=2000)
    assert len(p.html.encode()) < 4e6 and abs(p.bpb[0] - p.bpb[1]) < 1e-3
    assert len(page(stories, dtype='int8', max_bytes=2000).html.encode()) < 1e6
    html = re.sub(r'<script type="text/plain" id="weights">[^<]*</script>', '', p.html)
    assert not re.search(r'https?:|//[a-z]+\.|\beval\(|new Function|innerHTML|insertAdjacent|document\.write', html)
    assert set(re.findall(r'(?:src|href|action)="([^"]*)"', html)) == {'data:,'}
    assert not re.search(r'\son\w+="|style="', html)

def test_the_policy_names_the_scripts_that_are_there(stories):
    import base64
    import hashlib
    html = page(stories, max_bytes=500).html
    policy, = re.findall(r'Content-Security-Policy" content="([^"]*)"', html)
    assert "default-src 'none'" in policy and 'unsafe' not in policy
    for kind in ('script', 'style'):
        body = re.findall(rf'<{kind}>(.*?)</{kind}>', html, re.S)
        hashes = [f"'sha256-{base64.b64encode(hashlib.sha256(b.encode()).digest()).decode()}'" for b in body]
        assert re.findall(rf'{kind}-src ([^;]*)', policy) == hashes and len(hashes) == 1

HOSTILE = '</script><script>alert(1)</script><!--<script>"\'&{{weights}}\u2028'

def test_hostile_words_stay_text(stories):
    whole = page(stories, title=HOSTILE, max_bytes=500).html
    plain = page(stories, title='x', max_bytes=500).html
    assert whole.count('<script') == plain.count('<script') and '<!--' not in whole
    data = page_data(stories, [], examples=[dict(title=HOSTILE, text=HOSTILE, question=HOSTILE, answer=HOSTILE)],
                     text=HOSTILE, status=HOSTILE)
    html = filled('x', HOSTILE, data, b'')
    assert html.count('<script') == plain.count('<script') and html.count('</script>') == plain.count('</script>')
    inside, = re.findall(r'<script type="application/json" id="about">(.*?)</script>', html, re.S)
    assert json.loads(inside)['examples'][0]['title'] == json.loads(inside)['status'] == HOSTILE

@pytest.mark.parametrize('field', ['router', 'positions', 'marks', 'heads'])
def test_a_hostile_configuration_is_refused(field, stories, tmp_path, capsys):
    stories.save_pretrained(tmp_path/'m')
    config = json.loads((tmp_path/'m'/'config.json').read_text()) | {field: HOSTILE}
    (tmp_path/'m'/'config.json').write_text(json.dumps(config))
    refused(capsys, page_command, tmp_path/'m', tmp_path/'a.html', words=field)
    assert not (tmp_path/'a.html').exists()

def test_a_router_of_ones_own_is_refused(stories):
    model = Pico(PicoConfig.preset('nano', dim=24, latent_num_blocks=1, router='predictor'))
    with pytest.raises(InputError, match='predictor'): page(model, max_bytes=300)

@pytest.mark.skipif(sys.platform == 'win32', reason='no such names there')
def test_a_folder_with_a_hostile_name(stories, tmp_path):
    d = tmp_path/'<img src=x onerror=alert(1)>'
    stories.save_pretrained(d)
    assert call(page_command, d, tmp_path/'a.html', '--max_bytes', 300) == 0
    assert '<img' not in (tmp_path/'a.html').read_text()

def test_five_examples_each_with_a_question_and_an_answer(stories):
    known = examples(stories)
    assert len(known) == 5 and all(e['question'].endswith('?') or '? ' in e['question'] for e in known)
    s = surprise(stories, known[3]['text'])
    half = len(known[3]['text']) // 2
    assert f"{s.bits[s.text][:half].sum():.0f} bits, the second {s.bits[s.text][half:].sum():.0f}" in known[3]['answer']

def test_other_models_get_other_answers():
    model = random_model('rising')
    assert [e['answer'] for e in examples(model)] != [e['answer'] for e in examples(Pico.from_pretrained('stories'))]

def test_answers_say_what_is_true_of_the_model(monkeypatch):
    "A model to which all bytes cost the same does not hesitate at words, and one that routes nothing is used to that."
    for costs, where in ((lambda model, text, latent=True: np.ones(len(text)), 'Not at the beginnings of words.'),
                         (lambda model, text, latent=True: np.array([1.] + [9. if c == ' ' else 1. for c in text[:-1]]),
                          'At the beginnings of words.')):
        monkeypatch.setattr('pico.page.costs', costs)
        assert hesitation(None, 'the cat sat on the mat')['answer'].startswith(where)
    for router, used in ('rising', 'never trained'), ('none', 'trained so'):
        assert used in depth(random_model(router), 'the cat')['answer']

def test_the_command(tmp_path, capsys):
    assert call(page_command, tmp_path/'a.html', '--dtype', 'int8', '--max_bytes', 500) == 0
    html = (tmp_path/'a.html').read_text()
    out = capsys.readouterr().out
    before, after = map(float, re.findall(r'([\d.]+) bits per byte as trained, ([\d.]+) in the page', out)[0])
    assert 0 < before < 1 and abs(before - after) < .01 and html.startswith('<!doctype html>')
    refused(capsys, page_command, tmp_path/'mine', words='.html')
    refused(capsys, page_command, tmp_path/'a.html', '--dtype', 'int4', words='int4')
    refused(capsys, page_command, tmp_path/'nowhere'/'a.html', '--max_bytes', 300, words='could not be written')

def test_a_run_whose_text_is_gone_is_measured_on_stories(stories, tmp_path, capsys):
    stories.save_pretrained(tmp_path/'m')
    (tmp_path/'m'/'train.json').write_text(json.dumps(dict(data=dict(source=str(tmp_path/'gone.txt')))))
    assert call(page_command, tmp_path/'m', tmp_path/'a.html', '--max_bytes', 300) == 0
    assert 'stories' in capsys.readouterr().err

def test_commands_come_from_the_installed_package():
    assert list(commands())[:3] == ['train', 'generate', 'eval']
    assert 'page' in commands()                                   # else the package is to be installed again
    shown = subprocess.run([sys.executable, '-m', 'pico', 'page', '--help'], capture_output=True, text=True)
    assert shown.returncode == 0 and 'OUT.html' in shown.stdout

@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=30), st.data())
def test_coloured_text_keeps_every_character_and_escapes_it(data, draw):
    import html as library
    from pico.core import to_text
    from pico.show import visible
    routed = draw.draw(st.lists(st.booleans(), min_size=len(data), max_size=len(data)))
    bits = draw.draw(st.lists(st.floats(0, 20), min_size=len(data), max_size=len(data)))
    out = coloured(data, routed, bits)
    assert library.unescape(re.sub(r'<[^>]*>', '', out)) == visible(to_text(data))

BACKSPACES = '''
const session = new Session(model, about.marks), other = new Session(model, about.marks)
session.add(text)
while (session.some(64, Infinity)) {}
const off = []
for (let n = text.length - 1; n >= text.length - 150; n--) {
  session.keep(n)
  if (n % 10) continue
  other.set({})
  other.size = 0
  other.add(text.slice(0, n))
  while (other.some(64, Infinity)) {}
  const [a, b] = [session.expected, other.expected]
  off.push(Math.max(...a.map((v, i) => Math.abs(v - b[i]))))
}
console.log(JSON.stringify(off))
'''

@needs_node
def test_a_character_is_told_with_the_weight_of_its_routed_byte():
    assert 'routed, weight 0.90' in coloured('й'.encode(), [False, True], weights=[.1, .9])

def test_a_text_can_be_taken_back_byte_by_byte(tmp_path, stories):
    "More bytes than the decoder holds to be taken back."
    text = generate(stories, 'Once upon a time', max_bytes=400, temperature=.8).bytes
    off = in_node(tmp_path, BACKSPACES, stories, text=list(text))
    assert len(off) == 15 and max(off) < 1e-5

def test_parts_are_not_exported_from_a_folder_without_any(tmp_path):
    (tmp_path/'to').mkdir()
    (tmp_path/'to'/'page.js').write_text('mine')
    with pytest.raises(InputError, match='holds no parts'): export_parts(tmp_path/'none', tmp_path/'to')
    assert (tmp_path/'to'/'page.js').read_text() == 'mine'
