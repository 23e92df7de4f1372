"""The folder of a report, which is whole or not there, and replaces only its like."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from ..utils.errors import UserError
from ..utils.files import atomic_write, check_folder
from ..utils.messages import first_few

WRITER = 'mmnextvit report'
SUMMARY = 'report.json'
INDEX = 'index.html'


def check_report_folder(out: Path) -> None:
    """Tries whether a report can be written as ``out``, before there is one.

    Raises:
        UserError: It is a file, or a folder that holds anything else than a report.
        OSError: Nothing can be written there.
    """
    if os.path.lexists(out) and not out.is_dir():
        raise UserError(f'{out} is not a folder: choose another (--out)')
    if out.is_dir():
        found = {path.name for path in out.iterdir()}
        others = sorted(found - list_report_files(out))
        if others:
            raise UserError(
                f'{out} holds what is no part of a report ({first_few(others)}), and '
                'that would be lost: choose another folder (--out)'
            )
    check_folder(out.parent, '--out')


def list_report_files(folder: Path) -> set[str]:
    """The files of the report that was written as a folder; empty if there is none."""
    try:
        content = json.loads((folder / SUMMARY).read_text(encoding='utf-8'))
    except (OSError, ValueError):
        return set()
    if not isinstance(content, dict) or content.get('written_by') != WRITER:
        return set()
    files = content.get('files')
    named = files if isinstance(files, list) else []
    return {SUMMARY, *(name for name in named if isinstance(name, str))}


def write_folder(
    out: Path, files: Mapping[str, bytes], summary: Mapping[str, object]
) -> None:
    """Writes a report as a folder, in the place of an older one.

    Args:
        out: The folder.
        files: Contents by name.
        summary: What programs may want to read, which goes into ``report.json``.

    Raises:
        OSError: It cannot be written.
    """
    content = dict(written_by=WRITER, **summary, files=sorted(files))
    text = json.dumps(content, indent=2, ensure_ascii=False)
    with atomic_write(out) as scratch:
        scratch.mkdir()
        for name, data in files.items():
            (scratch / name).write_bytes(data)
        data = text.encode(errors='backslashreplace')
        (scratch / SUMMARY).write_bytes(data)
