"""A camera on loopback: motion JPEG over HTTP."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import cv2
import numpy as np

SIZE = 48, 64  # height, width


@contextmanager
def serve_mjpeg(*counts: int, pause: float = 0.03) -> Iterator[str]:
    """The address of a stream that breaks off, and then may come back.

    Args:
        counts: How many frames each connection gives before it is dropped. Whoever
            connects after the last one is turned away.
        pause: Seconds between two frames.

    Yields:
        The address, with a user and a password in it.
    """
    left, lock = list(counts), threading.Lock()

    class Camera(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # noqa: N802
            with lock:
                count = left.pop(0) if left else 0
            if not count:
                return self.send_error(503)
            self.send_response(200)
            self.send_header(
                'Content-Type', 'multipart/x-mixed-replace; boundary=frame'
            )
            self.end_headers()
            with suppress(OSError):
                for number in range(count):
                    image = np.full((*SIZE, 3), number * 7 % 256, np.uint8)
                    jpeg = cv2.imencode('.jpg', image)[1].tobytes()
                    head = 'Content-Type: image/jpeg\r\nContent-Length: '
                    self.wfile.write(f'--frame\r\n{head}{len(jpeg)}\r\n\r\n'.encode())
                    self.wfile.write(jpeg + b'\r\n')
                    time.sleep(pause)
            self.close_connection = True

        def log_message(self, *args: object) -> None:
            """Nothing is printed."""

    server = ThreadingHTTPServer(('127.0.0.1', 0), Camera)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f'http://me:word@127.0.0.1:{server.server_port}/video'
    finally:
        server.shutdown()
        server.server_close()
