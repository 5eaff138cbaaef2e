"Stories: pure, countable, unambiguous, consistent, seldom repeated, and worth a memory."
import hashlib
import math
import re
import pytest
from pico.stories import bits_of, floor, stories, story

SOME = [story(i) for i in range(400)]

def test_a_story_is_a_pure_function_of_two_numbers():
    assert story(5).text == story(5).text != story(6).text and story(5, 1).text != story(5).text

def test_first_story_is_the_same_on_every_python():
    text = ''.join(story(i, s).text for i in range(3) for s in (0, 1))
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == FIRST

FIRST = 'b815dcceece1769b'

def test_there_are_enough(): assert min(s.bits for s in SOME) > math.log2(1e12)

def test_ascii_and_ending():
    for s in SOME: assert s.text.isascii() and s.text.endswith('The end.') and s.text.count('The end.') == 1

def test_vocabulary():
    words = {w for i in range(3000) for w in re.findall(r"[a-z']+", story(i).text.lower())}
    assert len(words) >= 1000

def test_text_determines_the_choices():
    for i in range(500, 900):
        s = story(i)
        assert bits_of(s.text) == pytest.approx(s.bits) == pytest.approx(sum(b for _,b in s.choices))

def test_another_text_is_refused():
    s = SOME[0].text
    for bad in (s[:-1], s + ' ', s.replace('The end.', 'The end!'), 'x' + s, s[:200] + s[201:]):
        with pytest.raises(ValueError): bits_of(bad)

def test_facts_stand_where_they_say_and_agree():
    for s in SOME:
        for f in s.facts:
            assert s.text[slice(*f.told)] == s.text[slice(*f.referred)] == f.answer
            assert f.told[1] <= f.referred[0] and f.answer not in f.rivals

def test_who_has_what_stays_true():
    "From the text alone: after a trade the treasure is with the other one until the end, otherwise with its owner."
    for s in SOME:
        yes, no = '"Yes," said the owner' in s.text, '"No," was the answer' in s.text
        assert yes != no
        end = s.text[s.text.rindex('has it now?' if 'has it now?' in s.text else ' today?'):]
        first = [f for f in s.facts if f.kind == 'first'][0].answer
        assert (f'"{first} has it' in end or f'It belongs to {first}' in end) == yes
        assert ('"I have it' in end or '"It is mine' in end) == no

def test_held_out_sentences_are_seldom_in_10_MB_of_training_text():
    def cut(text): return [x for x in re.split(r'(?<=[.!?"]) ', text) if len(x) > 40]
    seen, size = set(), 0
    for s in stories(0):
        seen.update(hash(x) for x in cut(s.text))
        size += len(s.text)
        if size > 10_000_000: break
    held = [x for i in range(300) for x in cut(story(i, 1).text)]
    assert sum(hash(x) in seen for x in held) / len(held) < .2

def test_a_long_memory_pays():
    def lost(s, f): return s.text.rfind(f.answer, 0, f.referred[0]) < f.referred[0] - 200
    price = sum(math.log2(len(f.rivals)+1) for s in SOME for f in s.facts if lost(s, f))
    assert price > .05 * sum(s.bits for s in SOME)
    assert 0 < floor(SOME) < 1
