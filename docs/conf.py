"How Sphinx makes the site from what build.py has prepared."
import latex2mathml.converter
from docutils.nodes import SkipNode

project, author, copyright = 'Pico', 'The Pico authors', '2026 onwards, The Pico authors'
extensions = ['myst_nb', 'sphinx_copybutton']
html_theme, html_title, html_copy_source = 'furo', 'Pico', False
html_extra_path = ['extra']                                       # the live page
pygments_dark_style = 'github-dark'
html_static_path = ['static']
html_css_files = ['site.css']
nb_execution_mode = 'off'                                         # notebooks bring their outputs
nb_merge_streams = True
nb_render_markdown_format = 'myst'                                # tables that a cell displays
nb_code_prompt_show, nb_code_prompt_hide = 'Show the code ({type})', 'Hide the code ({type})'
myst_enable_extensions = ['dollarmath']
myst_heading_anchors = 3
math_number_all = False
suppress_warnings = ['mystnb.unknown_mime_type']                  # an output has plain text as well

def math(display):
    "Formulas as MathML, which browsers draw by themselves: nothing is loaded."
    def visit(self, node):
        made = latex2mathml.converter.convert(node.astext(), display=display)
        self.body.append(made if display == 'inline' else f'<div class="math">{made}</div>')
        raise SkipNode
    return visit, None

def setup(app):
    app.add_html_math_renderer('mathml', math('inline'), math('block'))

html_math_renderer = 'mathml'
