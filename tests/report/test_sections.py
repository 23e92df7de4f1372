"""The numbers of a report's files, and charts of whatever data."""

import csv
import io

from mmnextvit.datasets.samples import Sample
from mmnextvit.evaluation import curves
from mmnextvit.report.figures import choose_ends, group_confusion
from mmnextvit.report.history import History, join_starts
from mmnextvit.report.labels import count_labels
from mmnextvit.report.sections import (
    MAX_ROWS,
    bound_rows,
    describe_confusion,
    describe_faults,
    describe_labels,
    describe_precision,
    describe_scores,
    describe_training,
)

import numpy as np
import pytest

from tests.helpers.matchings import draw_samples, make_sample, match

PNG = b'\x89PNG\r\n\x1a\n'


def read_csv(content):
    return list(csv.DictReader(io.StringIO(content.decode())))


def describe(matching):
    """All sections of a matching, by their keys."""
    best = curves.find_best_scores(matching)
    threshold = curves.list_thresholds(matching, best)
    sections = [
        describe_precision(matching),
        describe_scores(matching, best),
        describe_confusion(matching, threshold),
        describe_faults(matching, threshold)[0],
    ]
    for section in sections:
        assert all(p.content.startswith(PNG) and p.alt for p in section.pictures)
    return {section.key: section for section in sections}


@pytest.mark.slow
def test_files_have_every_number():
    matching = match(*draw_samples(3))
    sections = describe(matching)
    averages = curves.average_precisions(matching)
    rows = read_csv(sections['precision'].files['average_precision.csv'])
    assert [row['class'] for row in rows] == ['cat', 'dog', 'fox', 'all classes']
    for column, area in (('AP_all', 0), ('AP_small', 1), ('AP_large', 3)):
        found = [float(row[column] or 'nan') for row in rows]
        assert found == pytest.approx(averages.by_area[:, area], abs=1e-5, nan_ok=True)
    found = [float(row['AP_0.75']) for row in rows]
    assert found == pytest.approx(averages.by_iou[:, 5], abs=1e-5)
    traced = curves.trace_scores(matching)
    rows = read_csv(sections['scores'].files['scores.csv'])
    assert len(rows) == 4 * len(traced.scores)
    rows = [row for row in rows if row['class'] == 'fox']
    found = [float(row['precision'] or 'nan') for row in rows]
    assert found == pytest.approx(traced.precision[2], abs=1e-5, nan_ok=True)
    rows = read_csv(sections['scores'].files['precision_recall.csv'])
    assert len(rows) == 4 * 101
    rows = read_csv(sections['confusion'].files['confusion.csv'])
    best = curves.find_best_scores(matching)
    counts = curves.count_confusion(matching, curves.list_thresholds(matching, best))
    names = ['cat', 'dog', 'fox', 'background']
    assert [[int(row[name]) for name in names] for row in rows] == counts.tolist()
    rows = read_csv(sections['scores'].files['best_scores.csv'])
    assert float(rows[-1]['score']) == pytest.approx(best.all.score)
    faults = read_csv(sections['errors'].files['errors.csv'])
    assert {row['kind'] for row in faults} <= {'missed', 'false', 'misplaced'}
    assert all(row['why'] and row['class'] in names for row in faults)


@pytest.mark.slow
@pytest.mark.parametrize('found', [False, True])
def test_many_odd_names_and_nothing_found(found):
    classes = tuple(f'{"<&$_^{}細"[i % 8]}{i}' for i in range(60))
    truth = [dict(bbox=[0, 0, 30, 30], bbox_label=i, ignore_flag=0) for i in (0, 7, 50)]
    detected = [([0, 0, 30, 30], [0, 0, 29, 30]), (7, 9), (0.9, 0.8)]
    sample = make_sample(0, truth, *(detected if found else ([], [], [])))
    sections = describe(match(sample, classes=classes))
    rows = read_csv(sections['precision'].files['average_precision.csv'])
    assert [row['class'] for row in rows] == [*classes, 'all classes']
    table = sections['scores'].blocks[0].table
    assert len(table.rows) == MAX_ROWS + 1 and table.rows[-1][0] == 'all classes'
    assert table.rows[-1][1] == ('–' if not found else table.rows[-1][1])


def test_of_many_classes_the_ends_are_chosen():
    values = np.array([0.5, np.nan, 0.9, 0.1, 0.7, 0.3])
    assert choose_ends(values, 6) == [2, 4, 0, 5, 3, 1]
    assert choose_ends(values, 4) == [2, 4, 5, 3]
    assert choose_ends(values, 3) == [2, 4, 3]
    rows = [(str(i),) for i in range(MAX_ROWS + 5)]
    assert bound_rows(rows[:MAX_ROWS]) == rows[:MAX_ROWS]
    assert bound_rows(rows)[-1] == rows[-1] and len(bound_rows(rows)) == MAX_ROWS + 1


def test_a_large_confusion_matrix_is_summed_up():
    matrix = np.diag([5] * 6 + [0])
    matrix[0, 2], matrix[2, 0], matrix[4, 6], matrix[6, 5] = 3, 1, 2, 7
    grouped, names = group_confusion(matrix, list('abcdef'), limit=3)
    assert names == ['a', 'c', 'f', '3 others', 'background']
    assert grouped.sum() == matrix.sum()
    assert grouped[0, 1] == 3 and grouped[1, 0] == 1 and grouped[3, 3] == 15
    assert grouped[3, 4] == 2 and grouped[4, 2] == 7


@pytest.mark.slow
def test_labels_are_counted():
    def sample(boxes, labels):
        return Sample('a', (100, 50), np.array(boxes, float).reshape(-1, 4), labels)

    samples = [
        sample([[0, 0, 10, 10], [20, 20, 60, 40]], np.array([0, 2])),
        sample([[0, 0, 30, 10]], np.array([0])),
        sample([], np.array([], int)),
    ]
    train = count_labels(samples, ('a', 'b', '細'))
    assert train.by_class.tolist() == [2, 0, 1]
    assert train.images_by_class.tolist() == [2, 0, 1]
    assert train.per_image.tolist() == [2, 1, 0]
    assert train.shares[1].tolist() == [0.4, 0.4]
    assert train.centres[1].tolist() == [0.4, 0.6]
    section = describe_labels({'train': train, 'val': count_labels([], train.classes)})
    rows = read_csv(section.files['labels.csv'])
    assert [row['class'] for row in rows] == 2 * ['a', 'b', '細']
    assert rows[0]['width_median'] == '20' and rows[1]['width_median'] == ''
    assert section.blocks[0].table.rows[0] == ('train', '3', '3', '1.0', '1')
    assert all(picture.content.startswith(PNG) for picture in section.pictures)


@pytest.mark.slow
@pytest.mark.parametrize(
    'history, pictures',
    [
        (History([dict(iter=1, loss=float('nan'))]), 1),
        (History([], [{'step': 1, 'coco/bbox_mAP': -1.0}]), 1),
        (History([{'iter': 1, 'train/loss': 1}], [{'step': 1, 'val/loss': 1}]), 1),
        (History([], [{'step': 1, 'val/loss': 0.5, 'ar/AR@100': 40.0}]), 2),
        (
            join_starts(
                [
                    [dict(iter=i, epoch=1, loss=1.0, loss_a=0.5, lr=0.1, base_lr=0.2)]
                    for i in range(1, 300)
                ]
                + [[{'step': 1, 'coco/bbox_mAP': 0.5, 'val/loss_a': 1.0}]]
            ),
            3,
        ),
    ],
)
def test_every_history_is_drawn(history, pictures):
    section = describe_training(history)
    assert len(section.pictures) == pictures
    assert all(picture.content.startswith(PNG) for picture in section.pictures)
    rows = read_csv(section.files['training.csv'])
    assert len(rows) == len(history.train)
    assert len(read_csv(section.files['validation.csv'])) == len(history.validation)
