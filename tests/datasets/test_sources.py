"""Files that are predicted on."""

from pathlib import Path

from mmnextvit.datasets.sources import find_files


def test_files_of_folder_and_pattern(tmp_path: Path) -> None:
    (tmp_path / 'a' / 'b').mkdir(parents=True)
    files = [tmp_path / 'a' / '1.JPG', tmp_path / 'a' / 'b' / '[2].png']
    for path in (*files, tmp_path / 'a' / 'x.txt'):
        path.touch()
    assert find_files(str(tmp_path / 'a')) == files[:1]
    assert find_files(str(tmp_path / '**' / '*.[pJ]*')) == files
    assert find_files(str(files[1])) == files[1:]
