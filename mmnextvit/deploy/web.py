"""A detector as a folder that runs in a browser, from any server of static files.

It holds a page, the ONNX file, the metadata beside it, and ONNX Runtime Web. The page
asks for nothing else.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from ..runtime import Metadata
from . import onnx
from .job import Job, Written
from .web_folder import METADATA, MODEL, PAGE, PAGE_FILES, RUNTIME


def write(job: Job, path: Path) -> Written:
    """Writes such a folder."""
    path.mkdir()
    written = onnx.write(job, path / MODEL)
    write_page(path, written.metadata, job.web_runtime)
    return written


def write_page(folder: Path, metadata: Metadata, runtime: Mapping[str, bytes]) -> None:
    """Puts all but the ONNX file into a folder.

    Args:
        folder: Such a folder, which exists.
        metadata: What the ONNX file has, too.
        runtime: The files of ONNX Runtime Web, by name.
    """
    (folder / RUNTIME).mkdir()
    for name in PAGE_FILES:
        shutil.copyfile(PAGE / name, folder / name)
    for name, content in runtime.items():
        (folder / RUNTIME / name).write_bytes(content)
    text = json.dumps(metadata, indent=1, ensure_ascii=False)
    (folder / METADATA).write_text(f'{text}\n', encoding='utf-8')
