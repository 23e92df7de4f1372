"""What docs/training.md says of epochs and options is what the commands do."""

import argparse
import re

from mmnextvit.cli import train
from mmnextvit.folder_import.config_text import RECIPES, _choose_epochs, get_few

import pytest

from tests.conftest import ROOT

PAGE = (ROOT / 'docs' / 'training.md').read_text(encoding='utf-8')
ROWS = re.findall(r'^\| ([\d,]+) \| small data \| (\d+) \| ([\d,]+) \|$', PAGE, re.M)


@pytest.mark.parametrize('images, epochs, steps', ROWS)
@pytest.mark.parametrize('recipe', ['scratch', 'pretrained', 'detector'])
def test_epochs_by_number_of_images(images, epochs, steps, recipe):
    few = get_few(recipe)
    count = int(images.replace(',', ''))
    choice = _choose_epochs('yolov5', few, count, few.batch_size)
    assert (str(choice.value), choice.reason) == (epochs, f'{steps} batches')


def test_epochs_of_many_images():
    assert len(ROWS) == 6
    for row, family in (('from scratch', 'yolov5'), ('of ImageNet', 'in1k')):
        (epochs,) = re.findall(rf'^\| 2,000 [^|]*{row} \|[^|]*\| (\d+) \|', PAGE, re.M)
        assert int(epochs) == RECIPES[family].epochs


def test_every_option_is_described():
    parser = argparse.ArgumentParser()
    train.add_arguments(parser)
    options = {a.option_strings[-1] for a in parser._actions if a.option_strings}
    resuming = (ROOT / 'docs' / 'resuming.md').read_text(encoding='utf-8')
    report = (ROOT / 'docs' / 'report.md').read_text(encoding='utf-8')
    undescribed = [x for x in options if x not in PAGE + resuming + report]
    assert set(undescribed) == {'--help'}
