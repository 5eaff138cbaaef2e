"Numbers in sentences come from the code beside them, and stored outputs from the results."
import json
import shutil
import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
import claims

ROOT = claims.ROOT
RESULTS = ROOT/'nbs'/'experiments'/'results'

def notebook(tmp_path, sentence, printed, code='x = compute()'):
    cells = [dict(cell_type='markdown', source=sentence),
             dict(cell_type='code', source=code, outputs=[dict(output_type='stream', text=printed)])]
    file = tmp_path/'22_some.ipynb'
    file.write_text(json.dumps(dict(cells=cells)), encoding='utf-8')
    return file

def left(*args, known=None):
    numbers, idle = claims.unexplained(notebook(*args), known or {})
    return [shown for shown, _ in numbers], idle

def test_every_number_of_the_book_has_a_source():
    known = claims.sources()
    assert known.keys() <= {f.stem for f in claims.chapters()}
    for file in claims.chapters(): assert claims.unexplained(file, known.get(file.stem, {})) == ([], []), file.stem

def test_the_numbers_of_the_readme_are_those_of_their_sources():
    readme, known = (claims.ROOT/'README.md').read_text(encoding='utf-8'), claims.sources()
    assert claims.unexplained_in_table(readme, known) == []
    table = '| what | measured | where |\n|---|---|---|\n'
    table += '| facts | 12.34% right of 17 | its card |\n| nats | 9.876 | chapter 11 |\n'
    assert [shown for shown, _ in claims.unexplained_in_table(table, known)] == ['12.34%', '17', '9.876']

def test_a_number_is_explained_by_what_is_printed_and_by_nothing_else(tmp_path):
    says = 'It ends at 0.41 bits per byte after 2,725 steps, 18% of the bytes routed.'
    assert left(tmp_path, says, 'bpb 0.4123, steps 2725, routed 0.183') == ([], [])
    assert left(tmp_path, says, 'bpb 0.4251, steps 2725, routed 0.183') == (['0.41'], [])
    assert left(tmp_path, says, 'bpb 0.4123, steps 2726, routed 0.191') == (['2,725', '18%'], [])
    assert left(tmp_path, 'It has 2 million.', 'of 2,000,000 bytes') == ([], [])

def test_code_explains_and_so_does_the_list_of_sources(tmp_path):
    assert left(tmp_path, 'A window of 2,048 bytes.', '', 'train(window=2_048)') == ([], [])
    assert left(tmp_path, 'A window of 2,048 bytes.', '', known={'2,048': 'a line'}) == ([], [])
    assert left(tmp_path, 'A window.', '', known={'2,048': 'a line'}) == ([], ['2,048'])

@pytest.mark.parametrize('text', ['chapters 05, 07 and 21a', 'arXiv 2404.19737, sec. 3.1', 'in 2026', '`x = 17`',
                                  '$2^{31}$', '# 17 ways', '1. A question', '[13](13_cli.ipynb)',
                                  'UTF-8, 10⁻⁴⁰, U+2400, 11a'])
def test_chapters_papers_dates_and_code_claim_nothing(text): assert list(claims.claims(text)) == []

def run(folder):
    "Chapter 22 executed in a folder; its texts as it shows them."
    book = nbformat.read(folder/'22_optimizers.ipynb', 4)
    NotebookClient(book, timeout=300, resources={'metadata': {'path': str(folder)}}).execute()
    return shown(book)

def shown(book):
    "What each cell shows, as one text: where a kernel divides what it prints is chance."
    return [''.join(o.get('text') or o.get('data', {}).get('text/markdown', '') for o in c.outputs)
            for c in book.cells if c.cell_type == 'code']

def test_a_changed_result_changes_the_page_and_fails_its_assertion(tmp_path):
    "Chapter 22 shows what its results say, and its sentences hold for these results and not for others."
    (tmp_path/'experiments').mkdir()
    shutil.copytree(RESULTS, tmp_path/'experiments'/'results')
    shutil.copy(ROOT/'nbs'/'22_optimizers.ipynb', tmp_path)
    assert run(tmp_path) == shown(nbformat.read(ROOT/'nbs'/'22_optimizers.ipynb', 4))
    file = tmp_path/'experiments'/'results'/'optimizers.jsonl'
    lines = [json.loads(line) for line in file.read_text(encoding='utf-8').splitlines()]
    changed, = (r for r in lines if r.get('optimizer') == 'soap-one-sided')
    changed['bpb'] -= .1
    file.write_text('\n'.join(map(json.dumps, lines)), encoding='utf-8')
    with pytest.raises(CellExecutionError, match='AssertionError'): run(tmp_path)
