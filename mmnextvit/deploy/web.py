"""A detector as a folder that runs in a browser, from any server of static files.

It holds a page, the ONNX file, the metadata beside it, and ONNX Runtime Web. The page
asks for nothing else.
"""

import json
import shutil
from pathlib import Path

from . import onnx
from .job import Job, Written
from .web_folder import METADATA, MODEL, PAGE, PAGE_FILES, RUNTIME


def write(job: Job, path: Path) -> Written:
    """Writes such a folder."""
    (path / RUNTIME).mkdir(parents=True)
    for name in PAGE_FILES:
        shutil.copyfile(PAGE / name, path / name)
    for name, content in job.web_runtime.items():
        (path / RUNTIME / name).write_bytes(content)
    written = onnx.write(job, path / MODEL)
    text = json.dumps(written.metadata, indent=1, ensure_ascii=False)
    (path / METADATA).write_text(f'{text}\n', encoding='utf-8')
    return written
