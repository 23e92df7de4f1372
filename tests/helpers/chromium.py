"""Chromium without a window, driven over two pipes by its DevTools protocol.

It needs nothing but the browser: with ``--remote-debugging-pipe`` that takes messages
in JSON, each of which ends in a zero byte.
"""

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

NAMES = ('chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable')
LIMIT = 60  # seconds, for whatever is waited for
# It asks nobody for updates, and has a camera that shows a moving pattern.
OPTIONS = (
    '--headless=new',
    '--no-sandbox',
    '--remote-debugging-pipe',
    '--no-first-run',
    '--disable-gpu',
    '--disable-dev-shm-usage',
    '--disable-background-networking',
    '--disable-component-update',
    '--disable-extensions',
    '--disable-sync',
    '--force-color-profile=srgb',
    '--use-fake-device-for-media-stream',
    '--use-fake-ui-for-media-stream',
)

# Becomes the browser, which reads from descriptor 3 and writes to 4.
RELAY = """
import os, sys
for own, end in enumerate(sys.argv[1:3], 3):
    os.dup2(int(end), own)
os.execv(sys.argv[3], sys.argv[3:])
"""


def find_chromium() -> str | None:
    """The browser's program, ``None`` where there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Page:
    """A page that is open in the browser.

    Attributes:
        requests: The address of everything that the page and its workers asked for.
        errors: What was written to its console as an error, or raised.
    """

    def __init__(self, browser: 'Chromium') -> None:
        self.browser = browser
        self.requests: list[str] = []
        self.errors: list[str] = []
        made = browser.call('Target.createTarget', url='about:blank')
        attached = browser.call(
            'Target.attachToTarget', targetId=made['targetId'], flatten=True
        )
        self.session = attached['sessionId']
        browser.listeners.append(self.note)
        for domain in ('Page', 'Runtime', 'Network', 'DOM', 'Log'):
            self.call(f'{domain}.enable')
        self.call(
            'Target.setAutoAttach',
            autoAttach=True,
            waitForDebuggerOnStart=True,
            flatten=True,
        )

    def note(self, message: dict) -> None:
        method, params = message['method'], message['params']
        if method == 'Target.attachedToTarget':  # a worker
            session = params['sessionId']
            if session != self.session:
                for command in (
                    'Network.enable',
                    'Runtime.enable',
                    'Runtime.runIfWaitingForDebugger',
                ):
                    self.browser.send(command, {}, session)
        elif method == 'Network.requestWillBeSent':
            self.requests.append(params['request']['url'])
        elif method == 'Runtime.exceptionThrown':
            details = params['exceptionDetails']
            thrown = details.get('exception', {}).get('description', '')
            self.errors.append(f'{details["text"]} {thrown}')
        elif method == 'Log.entryAdded' and params['entry']['level'] == 'error':
            self.errors.append(
                f'{params["entry"]["text"]} {params["entry"].get("url")}'
            )

    def call(self, method: str, **params: Any) -> dict:
        return self.browser.call(method, self.session, **params)

    def open(self, url: str, until: str = 'document.readyState === "complete"') -> None:
        """Opens an address, and waits for an expression of JavaScript to be true."""
        self.call('Page.navigate', url=url)
        self.wait(until)

    def evaluate(self, expression: str) -> Any:
        """The value of an expression of JavaScript, or what its promise gives.

        Raises:
            RuntimeError: It raises.
        """
        result = self.call(
            'Runtime.evaluate',
            expression=expression,
            awaitPromise=True,
            returnByValue=True,
            userGesture=True,
        )
        if 'exceptionDetails' in result:
            details = result['exceptionDetails']
            thrown = details.get('exception', {}).get('description', '')
            raise RuntimeError(f'{details["text"]} {thrown}')
        return result['result'].get('value')

    def wait(self, expression: str) -> Any:
        """The value of an expression of JavaScript once it is true."""
        end = time.monotonic() + LIMIT
        while time.monotonic() < end:
            if value := self.evaluate(expression):
                return value
            time.sleep(0.05)
        raise TimeoutError(f'{expression} is not true. Errors: {self.errors}')

    def give_files(self, selector: str, files: list[Path]) -> None:
        """Chooses files in an ``<input type="file">``, as a user does."""
        root = self.call('DOM.getDocument')['root']['nodeId']
        found = self.call('DOM.querySelector', nodeId=root, selector=selector)
        self.call(
            'DOM.setFileInputFiles', nodeId=found['nodeId'], files=list(map(str, files))
        )

    def save_screenshot(self, path: Path) -> None:
        shot = self.call('Page.captureScreenshot', format='png')
        path.write_bytes(base64.b64decode(shot['data']))


class Chromium:
    """A running browser; see :func:`open_chromium`."""

    def __init__(self, process: subprocess.Popen, read: int, write: int) -> None:
        self.process, self.reading, self.writing = process, read, write
        self.rest = b''
        self.count = 0
        self.answers: dict[int, dict] = {}
        self.listeners: list[Any] = []

    def send(self, method: str, params: dict, session: str | None = None) -> int:
        self.count += 1
        message = {'id': self.count, 'method': method, 'params': params}
        if session:
            message['sessionId'] = session
        content = json.dumps(message).encode() + b'\0'
        while content:
            content = content[os.write(self.writing, content) :]
        return self.count

    def call(self, method: str, session: str | None = None, **params: Any) -> dict:
        """The answer to a command of the protocol.

        Raises:
            RuntimeError: The browser does not know it, or it fails.
        """
        number = self.send(method, params, session)
        end = time.monotonic() + LIMIT
        while number not in self.answers:
            self.read(end)
        answer = self.answers.pop(number)
        if 'error' in answer:
            raise RuntimeError(f'{method}: {answer["error"]["message"]}')
        return answer['result']

    def read(self, end: float) -> None:
        ready, _, _ = select.select(
            [self.reading], [], [], max(0, end - time.monotonic())
        )
        content = os.read(self.reading, 1 << 20) if ready else b''
        if not content:
            raise TimeoutError('Chromium does not answer')
        *messages, self.rest = (self.rest + content).split(b'\0')
        for message in map(json.loads, messages):
            if 'id' in message:
                self.answers[message['id']] = message
                continue
            for listener in self.listeners:
                listener(message)

    def save_downloads_in(self, folder: Path) -> None:
        self.call(
            'Browser.setDownloadBehavior', behavior='allow', downloadPath=str(folder)
        )


@contextmanager
def open_chromium(program: str, profile: Path) -> Iterator[Chromium]:
    """A browser for the block, with a profile of its own in a new folder."""
    to_browser, from_browser = os.pipe(), os.pipe()
    ends = to_browser[0], from_browser[1]
    inherited = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in ends]  # not 3 nor 4
    relay = [sys.executable, '-I', '-S', '-c', RELAY, *map(str, inherited)]
    process = subprocess.Popen(
        [*relay, program, *OPTIONS, f'--user-data-dir={profile}'],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=inherited,
    )
    inherited += ends
    for descriptor in inherited:
        os.close(descriptor)
    browser = Chromium(process, from_browser[0], to_browser[1])
    try:
        yield browser
    finally:
        with suppress(OSError, RuntimeError, TimeoutError):
            browser.call('Browser.close')
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        os.close(browser.reading)
        os.close(browser.writing)
