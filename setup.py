"""What pyproject.toml cannot say: outside the repository the README's relative links and its picture lead nowhere.

They become whole addresses in the description that a package carries. The address is not written anywhere: a workflow
tells it, or git does. Without one the links stay as they are.
"""
import email
import os
import re
import subprocess
from pathlib import Path
from setuptools import setup

HERE = Path(__file__).resolve().parent

def address(remote):
    "A web address for what git calls a remote (`git@host:a/b.git`, `https://host/a/b`), or '' for a folder."
    how = r'(?:https?://(?:[^@/]*@)?|(?:ssh://)?git@)'             # a name and a password are left out
    found = re.fullmatch(how + r'([^/:]+)(?::\d+)?[:/](.+?)(?:\.git)?/?', remote.strip())
    return f'https://{found[1]}/{found[2]}' if found else ''

def repository():
    "Where this source can be read, as (address, branch or tag); the address is '' if nobody knows."
    if 'GITHUB_REPOSITORY' in os.environ:
        return f"{os.environ['GITHUB_SERVER_URL']}/{os.environ['GITHUB_REPOSITORY']}", os.environ['GITHUB_REF_NAME']
    if not (HERE/'.git').exists(): return '', ''
    try: out = subprocess.run(['git', 'remote', 'get-url', 'origin'], cwd=HERE, capture_output=True, text=True)
    except OSError: return '', ''                                 # no git on this machine
    return address(out.stdout), 'HEAD'

def absolute(text, url, ref):
    "The Markdown `text` with its relative links under `url`: pictures as files, all else as pages."
    def whole(m):
        if '://' in m[3] or m[3].startswith('#'): return m[0]
        return f"{m[1]}{m[2]}({url}/{'raw' if m[1] else 'blob'}/{ref}/{m[3]})"
    return re.sub(r'(!?)(\[[^\]]*\])\(([^)\s]+)\)', whole, text) if url else text

def page(root=HERE):
    "The description of the package and its addresses; a wheel that is built from a source package has that package's."
    told = root/'PKG-INFO'
    if told.exists():
        message = email.message_from_string(told.read_text(encoding='utf-8'))
        return message.get_payload(), dict(line.split(', ', 1) for line in message.get_all('Project-URL', []))
    url, ref = repository()
    return absolute((root/'README.md').read_text(encoding='utf-8'), url, ref), {'Repository': url} if url else {}

if __name__ == '__main__':
    text, addresses = page()
    setup(long_description=text, long_description_content_type='text/markdown', project_urls=addresses)
