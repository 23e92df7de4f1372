"""Pages of toy detectors, and what a page in Chromium finds in images."""

import json
import os
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from mmnextvit.deploy.serve import Server
from mmnextvit.deploy.web import write_page
from mmnextvit.deploy.web_folder import MODEL
from mmnextvit.deploy.web_runtime import find_cache, read_package
from mmnextvit.utils.errors import UserError

import numpy as np
import onnx
from onnx.numpy_helper import from_array
from onnx.parser import parse_model

from tests.helpers.chromium import LIMIT, Page
from tests.helpers.toy_exports import metadata, write_onnx

PACKAGE = 'MMNEXTVIT_ONNXRUNTIME_WEB'  # what `npm pack` writes, or a folder
CELL = 8  # pixels
READY = 'document.getElementById("input")?.hidden === false'
IDLE = 'document.getElementById("status").textContent === ""'

# The mean of each channel in a cell is the score of its box for the class of the
# channel's number, so that scores say what pixels the network saw.
CELLS = f"""
    <ir_version: 10, opset_import: ["" : 18]>
    net (float[1,3,H,W] images) => (float[1,K,4] boxes, float[1,K,C] scores) {{
        white = Constant <value_float: float = 255.0> ()
        bright = Div (images, white)
        means = AveragePool <kernel_shape = {[CELL] * 2}, strides = {[CELL] * 2}>
            (bright)
        rows = Transpose <perm = [0, 2, 3, 1]> (means)
        shape = Constant <value_ints: ints = [1, -1, 3]> ()
        scores = Reshape (rows, shape)
        boxes = Identity (all_boxes)
    }}
"""


def find_web_runtime() -> dict[str, bytes] | None:
    """ONNX Runtime Web where it was fetched already, ``None`` elsewhere."""
    with suppress(UserError, OSError):
        return read_package(Path(os.environ.get(PACKAGE) or find_cache()))
    return None


def write_cells(path: Path, about: dict) -> Path:
    """A detector of cells, whose input has the size in the metadata."""
    height, width = about['input']['size']
    y, x = np.mgrid[0:height:CELL, 0:width:CELL].reshape(2, -1)
    boxes = np.stack([x, y, x + CELL, y + CELL], 1)[None].astype(np.float32)
    model = parse_model(CELLS)
    model.graph.initializer.append(from_array(boxes, 'all_boxes'))
    onnx.helper.set_model_props(model, {'mmnextvit': json.dumps(about)})
    onnx.save(model, path)
    return path


def write_toy_page(
    folder: Path, runtime: Mapping[str, bytes], write=write_cells, **options
) -> Path:
    """A folder with the page of a toy detector, by the metadata's options."""
    about = metadata(**{'batch': 1, 'in_graph': write is write_onnx, **options})
    folder.mkdir()
    write(folder / MODEL, about)
    write_page(folder, about, runtime)
    return folder


@contextmanager
def serving(server: Server) -> Iterator[str]:
    """Has a server answer for the block; gives its address."""
    thread = threading.Thread(
        target=server.serve_forever, kwargs={'poll_interval': 0.05}
    )
    thread.start()
    try:
        yield f'http://127.0.0.1:{server.server_port}/'
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def show_images(page: Page, images: list[Path]) -> None:
    """Gives images to an open page and waits for what it finds."""
    before = page.evaluate('document.querySelectorAll("#results figure").length')
    page.give_files('#files', images)
    shown = 'document.querySelectorAll("#results figcaption:not(:empty)").length'
    page.wait(f'{shown} === {before + len(images)} && {IDLE}')


def set_minimum(page: Page, value: float) -> None:
    """Moves the slider, as a user does."""
    slider = 'document.getElementById("minimum")'
    page.evaluate(
        f'{slider}.value = {value}; {slider}.dispatchEvent(new Event("input"))'
    )


def save_json(page: Page, folder: Path) -> dict:
    """Saves what the page shows, and reads it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    page.browser.save_downloads_in(folder)
    page.evaluate('document.getElementById("save").click()')
    file, end = folder / 'predictions.json', time.monotonic() + LIMIT
    while not file.exists() and time.monotonic() < end:
        time.sleep(0.02)
    return json.loads(file.read_text(encoding='utf-8'))
