"""The page alone, and the folder that it lies in."""

import json

from mmnextvit.report.folder import check_report_folder, write_folder
from mmnextvit.report.page import Block, Page, Picture, Section, Table, render
from mmnextvit.utils.errors import UserError

import pytest

from tests.helpers.kills import Moment, run_until
from tests.helpers.report_pages import read_page

ODD = '<script>alert("1")</script> & \'Zelle\' Größe 細胞 {{ page }} \x1b[31m \ud800'


def make_page(name=ODD):
    picture = Picture('a.png', b'\x89PNG', name, name, [name], wide=True)
    block = Block(name, name, Table(('class', name), [(name, '1')]), [('#123', name)])
    section = Section(
        'x', name, name, [block, Block(pictures=[picture])], {'a.csv': b''}
    )
    return Page(name, [('1', name, name)], [(name, name)], [name], [section])


def test_every_name_is_escaped():
    page = read_page(render(make_page()))
    assert not page.scripts and not page.outside
    shown = ODD.replace('\x1b', '\\x1b').replace('\ud800', '\\ud800')
    assert page.texts.count(shown) == 16 and page.alts == [shown]
    assert page.title == shown


def test_images_stand_in_the_page_and_files_beside_it():
    page = read_page(render(make_page('a')))
    assert page.images == [b'\x89PNG']
    assert page.links == {'#x', 'a.csv'} and 'x' in page.ids


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_report_replaces_a_report_alone(tmp_path):
    out = tmp_path / 'run' / 'report'
    check_report_folder(out)
    assert not out.parent.exists()
    write_folder(out, {'index.html': b'1', 'old.csv': b'1'}, dict(config='a'))
    assert json.loads((out / 'report.json').read_text())['config'] == 'a'
    check_report_folder(out)
    write_folder(out, {'index.html': b'2'}, dict(config='ä\ud800'))
    assert files(out).keys() == {'index.html', 'report.json'}
    assert [path.name for path in out.parent.iterdir()] == ['report']
    (out / 'notes.txt').write_text('precious')
    with pytest.raises(UserError, match=r'report holds what is no .*\(notes.txt\)'):
        check_report_folder(out)
    (out / 'report.json').write_text('{"files": ["notes.txt", "index.html"]}')
    with pytest.raises(UserError, match='index.html, notes.txt, report.json'):
        check_report_folder(out)
    with pytest.raises(UserError, match='not a folder: choose another'):
        check_report_folder(out / 'notes.txt')
    empty = tmp_path / 'empty'
    empty.mkdir()
    check_report_folder(empty)


@pytest.mark.slow
@pytest.mark.parametrize('change', range(1, 9))
def test_a_killed_report_is_whole_or_not_there(tmp_path, change):
    out = tmp_path / 'report'
    contents = {'index.html': b'new' * 1000, 'a.csv': b'new'}
    killed = run_until(
        Moment(change), lambda: write_folder(out, contents, {}), tmp_path
    )
    assert killed
    if out.exists():
        assert files(out).keys() == {'index.html', 'a.csv', 'report.json'}
        assert (out / 'index.html').read_bytes() == contents['index.html']
