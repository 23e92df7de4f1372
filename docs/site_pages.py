"""Gives MkDocs the pages where they lie in the repository, so that their links hold.

MkDocs takes pages from one folder alone. Links in ours lead from docs/ to benchmarks/ and
to the README, and must work on a code host as well.
"""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
PATTERNS = ('*.md', 'LICENSE', 'docs/*.md', 'docs/*/*.md', 'benchmarks/*.md')
PICTURES = ('.png', '.jpg', '.svg')


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The site's files: pages by their paths in the repository, pictures beside them."""
    kept = [file for file in files if file.generated_by or not file.abs_src_path]
    kept += [file for file in files if file.abs_src_path and not is_ours(file)]
    pages = [path for pattern in PATTERNS for path in sorted(ROOT.glob(pattern))]
    pictures = [
        path
        for folder in ('docs', 'benchmarks')
        for path in sorted((ROOT / folder).rglob('*'))
        if path.suffix in PICTURES
    ]
    made = [
        File.generated(
            config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)
        )
        for path in (*pages, *pictures)
    ]
    return Files([*kept, *made])


def is_ours(file: File) -> bool:
    """Whether MkDocs found a file in docs/, and not in the theme."""
    return Path(file.abs_src_path).is_relative_to(ROOT)
