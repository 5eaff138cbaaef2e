"""Drives Chromium and Firefox by WebDriver BiDi (https://w3c.github.io/webdriver-bidi), for `test_browser.py`.

Debian: apt-get install chromium chromium-driver firefox-esr; pip install selenium (which brings websocket-client).
Firefox speaks BiDi itself, so no geckodriver is needed."""
import json
import re
import shutil
import subprocess
import tempfile
import time
from importlib.util import find_spec

FLAGS = '--headless=new', '--no-sandbox', '--disable-gpu', '--disable-background-networking'

class Browser:
    "A browser with one page; remembers every error of its console and every request."
    def __init__(self):
        self.count, self.errors, self.requests = 0, [], []
        self.open_socket()
        self.command('session.subscribe', events=['log.entryAdded', 'network.beforeRequestSent'])
        self.context = self.command('browsingContext.getTree')['contexts'][0]['context']

    def connect(self, url):
        import websocket
        self.socket = websocket.create_connection(url, timeout=180, suppress_origin=True)

    def command(self, method, **params):
        "Send a command, wait for its answer, and note what happened meanwhile."
        self.count += 1
        self.socket.send(json.dumps(dict(id=self.count, method=method, params=params)))
        while True:
            m = json.loads(self.socket.recv())
            if m.get('id') == self.count: break
            self.note(m)
        if m['type'] == 'error': raise RuntimeError(f"{method}: {m['message']}")
        return m['result']

    def note(self, m):
        if m['method'] == 'log.entryAdded' and m['params']['level'] in ('error', 'warn'):
            self.errors.append(m['params'].get('text'))
        if m['method'] == 'network.beforeRequestSent': self.requests.append(m['params']['request']['url'])

    def open(self, url): self.command('browsingContext.navigate', context=self.context, url=url, wait='complete')

    def js(self, expression):
        "The value of an expression, made JSON in the page."
        r = self.command('script.evaluate', expression=f'JSON.stringify({expression})', awaitPromise=False,
                         target=dict(context=self.context))
        if r['type'] == 'exception': raise RuntimeError(r['exceptionDetails']['text'])
        return json.loads(r['result'].get('value', 'null'))

    def until(self, expression, seconds=60):
        "Wait until an expression is true."
        end = time.monotonic() + seconds
        while not self.js(f'!!({expression})'):
            assert time.monotonic() < end, f'never: {expression}'
            time.sleep(.05)

    def keys(self, text):
        "Press keys; special ones by their code points."
        actions = [dict(type=t, value=c) for c in text for t in ('keyDown', 'keyUp')]
        self.command('input.performActions', context=self.context,
                     actions=[dict(type='key', id='keys', actions=actions)])

    def move(self, element, click=False, dx=0):
        "Move the mouse to the middle of what an expression names."
        self.js(f'({element}).scrollIntoView({{ block: "center" }})')
        x, y = self.js(f'(r => [r.x + r.width / 2, r.y + r.height / 2])(({element}).getBoundingClientRect())')
        actions = [dict(type='pointerMove', x=int(x) + dx, y=int(y))]
        if click: actions += [dict(type='pointerDown', button=0), dict(type='pointerUp', button=0)]
        self.command('input.performActions', context=self.context,
                     actions=[dict(type='pointer', id='mouse', actions=actions)])

    def click(self, element): self.move(element, click=True)

class Chromium(Browser):
    "Through Debian's chromedriver, started by selenium."
    def open_socket(self):
        from selenium import webdriver
        options = webdriver.ChromeOptions()
        for flag in (*FLAGS, '--window-size=1400,1000'): options.add_argument(flag)
        options.binary_location = shutil.which('chromium')
        options.set_capability('webSocketUrl', True)
        self.driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which('chromedriver')))
        self.connect(self.driver.capabilities['webSocketUrl'])

    def close(self):
        self.socket.close()
        self.driver.quit()

class Firefox(Browser):
    "By itself, with an empty profile."
    def open_socket(self):
        self.profile = tempfile.mkdtemp()
        self.process = subprocess.Popen(
            [shutil.which('firefox-esr') or 'firefox', '--headless', '--no-remote', '--profile', self.profile,
             '--width', '1400', '--height', '1000', '--remote-debugging-port', '0'], stderr=subprocess.PIPE, text=True)
        url = next(m[1] for line in self.process.stderr if (m := re.search(r'BiDi listening on (ws://\S+)', line)))
        self.connect(f'{url}/session')
        self.command('session.new', capabilities={})

    def close(self):
        self.socket.close()
        self.process.terminate()
        self.process.wait()
        self.process.stderr.close()
        shutil.rmtree(self.profile, ignore_errors=True)

def missing(kind):
    "What is not installed, or nothing."
    wanted = {Chromium: ['chromium', 'chromedriver'], Firefox: ['firefox-esr']}[kind]
    modules = [m for m in ('selenium', 'websocket') if not find_spec(m)]
    return [w for w in wanted if not shutil.which(w)] + modules
