"""What the site is made of: hooks of MkDocs, named in mkdocs.yml.

The site has the repository's own folders, so that a link between two pages works on
GitHub and here. Files that a page links to and that are no pages or images, such as
configs, are shown as pages with their text; the notebook is shown as its cells. The API
page is made from docstrings, without importing the package.
"""

import json
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path, PurePath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
API = 'docs/api.md'

# Sections of the navigation, and their pages as patterns, in this order.
SECTIONS = {
    'Start': [
        'docs/install.md',
        'docs/first_steps.ipynb',
        'docs/data.md',
        'docs/training.md',
        'docs/resuming.md',
        'docs/report.md',
        'docs/troubleshooting.md',
    ],
    'Use': [
        'docs/python.md',
        'docs/video.md',
        'docs/large_images.md',
        'docs/deploy/README.md',
        'docs/deploy/*.md',
    ],
    'Models': [
        'docs/model_zoo.md',
        'docs/weights.md',
        'docs/yolov5.md',
        'docs/mmdetection.md',
        'docs/custom_backbone.md',
        'docs/custom_modules.md',
        'docs/converted_formats.md',
    ],
    'Measured': [
        'benchmarks/README.md',
        'benchmarks/learning.md',
        'benchmarks/speed.md',
        'benchmarks/*.md',
    ],
    'Reference': [
        API,
        'docs/versions.md',
        'docs/reliability.md',
        'docs/architecture.md',
        'CONTRIBUTING.md',
        'SECURITY.md',
        'CHANGELOG.md',
    ],
}
# What is in the site besides README.md.
PAGES = ('*.md', 'docs/**/*.md', 'docs/**/*.ipynb', 'benchmarks/**/*.md')
IMAGES = {'.gif', '.jpg', '.jpeg', '.png', '.svg', '.webp'}

API_HEAD = """# API

What these names of `mmnextvit`, `mmnextvit.apis` and `mmnextvit.runtime` do.
[From Python](python.md) shows them at work.
"""
# What the API page has: headings, and the names of one module that stand below each.
DOCUMENTED = {
    'Configs and models by name': (
        'mmnextvit',
        ['config_file', 'get_config', 'get_model', 'fit_recipe', 'tune_recipe'],
    ),
    'Train, test and predict': ('mmnextvit.apis', ['train', 'test', 'Predictor']),
    'Exported files': (
        'mmnextvit.runtime',
        [
            'Detector',
            'Detections',
            'Objects',
            'Slicing',
            'Tracker',
            'draw_objects',
            'DetectorError',
            'ImageError',
            'MissingModelError',
            'ModelFileError',
            'OptionError',
            'SourceError',
        ],
    ),
    'Backbones': ('mmnextvit', ['NextViT', 'TimmFeatures']),
    "YOLOv5's necks and heads": (
        'mmnextvit',
        ['YOLOv5YAMLNeck', 'YOLOv5YAMLBackbone', 'FittedYOLODetector', 'register_row'],
    ),
}

LINK = re.compile(r'(\[[^\]]*\]\()([^)\s#]+)((?:#[^)\s]*)?\))')
FENCED = re.compile(r'(^ *(`{3,}|~{3,}).*?^ *\2 *$)', re.M | re.S)
ROLE = re.compile(r':(?:attr|class|data|exc|func|meth|mod):(?=<code>)')


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Fills the navigation.

    Raises:
        PluginError: A page is in no section.
    """
    left = [path for path in find_pages() if path != 'README.md'] + [API]
    sections = []
    for title, patterns in SECTIONS.items():
        found = []
        for pattern in patterns:
            found += [p for p in left if PurePath(p).match(pattern) and p not in found]
        left = [path for path in left if path not in found]
        sections.append({title: [to_page(path) for path in found]})
    if left:
        raise PluginError(
            f'{", ".join(left)}: in no section of the site. Name it in SECTIONS in '
            'docs/site_hooks.py'
        )
    config.nav = [{'Home': 'README.md'}, *sections]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Takes pages and images from the whole repository, and what pages link to."""
    pages = find_pages()
    shown = {path for path in pages if not path.endswith('.md')}
    linked = {target for page in pages for target in list_targets(page)}
    shown |= {path for path in linked if is_shown(path)}
    for folder in [path for path in shown if (ROOT / path).is_dir()]:
        shown |= {f'{folder}/{file.name}' for file in (ROOT / folder).iterdir()}
    made = [File.generated(config, API, content=write_api())]
    for path in sorted(shown):
        content = show(ROOT / path)
        level = InclusionLevel.UNDEFINED if path in pages else InclusionLevel.NOT_IN_NAV
        made.append(
            File.generated(config, to_page(path), content=content, inclusion=level)
        )
    plain = {path for path in pages if path.endswith('.md')}
    plain |= {path for path in linked if PurePath(path).suffix in IMAGES}
    plain |= {
        image for folder in ('docs', 'benchmarks') for image in find_images(folder)
    }
    for path in sorted(plain):
        made.append(
            File(
                path,
                src_dir=str(ROOT),
                dest_dir=config.site_dir,
                use_directory_urls=config.use_directory_urls,
            )
        )
    of_theme = [file for file in files if file.src_dir != config.docs_dir]
    return Files([*of_theme, *made])


def on_page_markdown(markdown: str, page: Page, **kwargs: object) -> str:
    """Has links to shown files lead to their pages."""

    def lead(match: re.Match) -> str:
        target = resolve(match[2], page.file.src_uri)
        if target is None or not is_shown(target):
            return match[0]
        return f'{match[1]}{to_page(match[2].rstrip("/"))}{match[3]}'

    # Every third part is a block of code, and its fence follows it.
    parts = FENCED.split(markdown)
    parts[::3] = [LINK.sub(lead, part) for part in parts[::3]]
    del parts[2::3]
    return ''.join(parts)


def on_page_content(html: str, **kwargs: object) -> str:
    """Leaves out Sphinx's roles, which docstrings have."""
    return ROLE.sub('', html)


def find_pages() -> list[str]:
    """The repository's pages and notebooks, as paths from its folder."""
    found = {path for pattern in PAGES for path in ROOT.glob(pattern)}
    return sorted(path.relative_to(ROOT).as_posix() for path in found)


def find_images(folder: str) -> Iterator[str]:
    """The images of a folder, for pages that show them by HTML."""
    for path in (ROOT / folder).rglob('*'):
        if path.suffix in IMAGES:
            yield path.relative_to(ROOT).as_posix()


def to_page(path: str) -> str:
    """The page that shows a file or folder."""
    return path if path.endswith('.md') else f'{path}.md'


def resolve(link: str, page: str) -> str | None:
    """What a link of a page leads to, as a path from the repository's folder.

    ``None`` if it leads out of it, or nowhere.
    """
    if '://' in link or link.startswith(('/', 'mailto:')):
        return None
    path = posixpath.normpath(posixpath.join(posixpath.dirname(page), link))
    is_inside = not path.startswith('..') and (ROOT / path).exists()
    return path if is_inside else None


def list_targets(page: str) -> Iterator[str]:
    """What the links of a page in the repository lead to."""
    if page.endswith('.md'):
        text = FENCED.sub('', (ROOT / page).read_text(encoding='utf-8'))
    else:
        text = show(ROOT / page)
    for _, link, _ in LINK.findall(text):
        if (target := resolve(link, page)) is not None:
            yield target


def is_shown(path: str) -> bool:
    """Whether a file or folder of the repository has a page that shows it."""
    return PurePath(path).suffix not in {'.md', *IMAGES}


def show(path: Path) -> str:
    """A file's text, a folder's list or a notebook's cells as a page."""
    name = path.relative_to(ROOT).as_posix()
    if path.suffix == '.ipynb':
        return '\n\n'.join(map(show_cell, json.loads(path.read_bytes())['cells']))
    if path.is_dir():
        text = ''.join(
            f'- [{file.name}]({path.name}/{file.name})\n'
            for file in sorted(path.iterdir())
        )
    else:
        # A fence longer than any that the file has.
        text = f'``````{path.suffix[1:]}\n{path.read_text(encoding="utf-8")}\n``````\n'
    return f'---\nsearch:\n  exclude: true\n---\n\n# {name}\n\n{text}'


def show_cell(cell: dict) -> str:
    """A cell of a notebook, with the text that it printed."""
    source = ''.join(cell['source'])
    if cell['cell_type'] == 'markdown':
        return source
    printed = ''.join(
        ''.join(output.get('text', ())) for output in cell.get('outputs', ())
    )
    code = f'```python\n{source}\n```'
    return f'{code}\n\n```text\n{printed}\n```' if printed else code


def write_api() -> str:
    """The API page, whose lines mkdocstrings fills from the source."""
    parts = [API_HEAD]
    for title, (module, names) in DOCUMENTED.items():
        parts.append(f'## {title}\n')
        parts += [f'::: {module}.{name}\n' for name in names]
    return '\n'.join(parts)
