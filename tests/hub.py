"""A stand-in for the Hugging Face Hub on this machine: the calls by which a model is sent and fetched, and no more.

It answers over HTTP, so that the real `huggingface_hub` is what is tested. `HF_ENDPOINT` has to name it before that
is imported, hence in another process.
"""
import base64
import hashlib
import json
import re
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

TOKEN, SHA = 'hf_of_a_friend', 'c0ffee' + '0'*34

class Hub(BaseHTTPRequestHandler):
    files, asked, endpoint = None, None, None       # name -> bytes; (method, path) of each call; set by `hub`

    def log_message(self, *_): pass

    def answer(self, what, status=200, **headers):
        body = what if isinstance(what, bytes) else json.dumps(what).encode()
        self.send_response(status)
        for k, v in ({'Content-Length': str(len(body))} | headers).items(): self.send_header(k, v)
        self.end_headers()
        if self.command != 'HEAD': self.wfile.write(body)

    def read(self): return self.rfile.read(int(self.headers.get('Content-Length', 0)))

    def refused(self):
        "Every call of a private model needs the token."
        self.asked.append((self.command, self.path))
        if self.headers.get('Authorization') == f'Bearer {TOKEN}': return False
        self.answer(dict(error='no such repository for you'), 401, **{'X-Error-Code': 'RepoNotFound'})
        return True

    def do_POST(self):
        body = self.read()
        if self.path == '/api/validate-yaml': return self.answer(dict(errors=[], warnings=[]))
        if self.refused(): return None
        if self.path == '/api/repos/create': return self.answer(dict(url=f'{self.endpoint}/me/small'))
        if '/preupload/' in self.path:
            names = [f['path'] for f in json.loads(body)['files']]
            return self.answer(dict(files=[dict(path=n, uploadMode='regular', shouldIgnore=False) for n in names]))
        if '/commit/' in self.path:
            sent = [d['value'] for d in map(json.loads, body.splitlines()) if d['key'] == 'file']
            self.files |= {d['path']: base64.b64decode(d['content']) for d in sent}
            return self.answer(dict(commitUrl=f'{self.endpoint}/me/small/commit/{SHA}', commitOid=SHA, hookOutput=''))
        return self.answer(dict(error='unknown'), 404)

    def do_GET(self):
        if self.refused(): return None
        path = self.path.partition('?')[0]
        if re.fullmatch(r'/api/models/me/small(/revision/[^/]+)?', path):
            return self.answer(dict(id='me/small', sha=SHA, siblings=[dict(rfilename=n) for n in self.files]))
        if path.startswith('/api/models/me/small/tree/'):
            return self.answer([dict(type='file', path=n, size=len(b), oid=hashlib.sha1(b).hexdigest())
                                for n, b in self.files.items()])
        name = path.rpartition('/')[2]
        if path.startswith('/me/small/resolve/') and name in self.files:
            data = self.files[name]
            return self.answer(data, **{'ETag': f'"{hashlib.sha1(data).hexdigest()}"', 'X-Repo-Commit': SHA})
        return self.answer(dict(error='not here'), 404, **{'X-Error-Code': 'RepoNotFound'})

    do_HEAD = do_GET

@contextmanager
def hub():
    "A server with one private model, `me/small`. Yields the handler class: `endpoint`, `files` and `asked`."
    handler = type('Handler', (Hub,), dict(files={}, asked=[]))
    server = ThreadingHTTPServer(('127.0.0.1', 0), handler)
    handler.endpoint = f'http://127.0.0.1:{server.server_port}'
    Thread(target=server.serve_forever, daemon=True).start()
    try: yield handler
    finally:
        server.shutdown()
        server.server_close()
