"""The sections of a report, each with its charts, tables and CSV files."""

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from ..evaluation import curves
from ..evaluation.matching import AREAS, Matching
from . import figures
from .drawings import LEGEND, draw_worst_images, list_loose
from .history import History, Record, is_loss, is_rate, list_metrics
from .labels import LabelStatistics, tabulate_labels
from .page import Block, Picture, Section, Table
from .speed import Speed

MAX_ROWS = 40  # of a table on the page
SIZES = ('all', 'small, under 32²', 'medium', 'large, over 96²')  # pixels
ALL = 'all classes'


def write_csv(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> bytes:
    """A CSV file in UTF-8. Numbers that do not exist are empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    writer.writerow(columns)
    writer.writerows([_show_cell(cell) for cell in row] for row in rows)
    return text.getvalue().encode(errors='backslashreplace')


def _show_cell(cell: object) -> object:
    if isinstance(cell, (float, np.floating)):
        return '' if math.isnan(cell) else f'{cell:.6g}'
    return cell


def show_share(value: float) -> str:
    """A number from 0 to 1 as it stands on the page."""
    return '–' if math.isnan(value) else f'{value:.2f}'


def bound_rows(rows: Sequence[Sequence[str]]) -> list[Sequence[str]]:
    """The rows that the page shows of a long table, the last one among them."""
    if len(rows) <= MAX_ROWS:
        return list(rows)
    left = f'… {len(rows) - MAX_ROWS} more in the CSV file'
    return [*rows[: MAX_ROWS - 1], (left, *[''] * (len(rows[0]) - 1)), rows[-1]]


# ----------------------------------------------------------------------------- training


def describe_training(history: History) -> Section:
    """How losses, rates and precisions changed; ``history`` is not empty."""
    pictures = []
    losses = [n for v in (False, True) for n in history.list_names(v) if is_loss(n)]
    if losses:
        pictures.append(
            Picture(
                'losses.png',
                figures.draw_losses(history),
                'Losses over the training',
                'Both should fall. If the validation loss (dashed) rises while the '
                'training loss falls, the detector learns its training images by '
                'heart: stop earlier, or get more data.'
                if any(is_loss(n) for n in history.list_names(True))
                else 'The loss should fall, and level out at the end.',
            )
        )
    if list_metrics(history):
        pictures.append(
            Picture(
                'metrics.png',
                figures.draw_metrics(history),
                'Average precisions at each validation',
                'If mAP still rises at the end, a longer training pays.',
            )
        )
    if any(is_rate(name) for name in history.list_names()):
        pictures.append(
            Picture(
                'rates.png', figures.draw_rates(history), 'The learning rate over time'
            )
        )
    resumed = len(history.restarts)
    text = 'What was logged, from the first start of the run to the last.'
    if resumed:
        times = 'once' if resumed == 1 else f'{resumed} times'
        text += f' It was resumed {times} (dotted lines).'
    return Section(
        'training',
        'Training',
        text,
        [Block(pictures=pictures)],
        {
            'training.csv': _write_records(history.train, ('epoch', 'iter')),
            'validation.csv': _write_records(history.validation, ('step',)),
        },
    )


def _write_records(records: Sequence[Record], places: Sequence[str]) -> bytes:
    names = dict.fromkeys(name for record in records for name in record)
    first = [name for name in places if name in names]
    rest = [name for name in names if name not in (*first, 'step')]
    columns = [*first, *rest]
    rows = ([record.get(c, math.nan) for c in columns] for record in records)
    return write_csv(columns, rows)


# --------------------------------------------------------------------------- detections


def describe_precision(matching: Matching) -> Section:
    """Average precisions by class, by size and by IoU."""
    averages = curves.average_precisions(matching)
    classes = matching.classes
    thresholds = matching.iou_thresholds
    shown = [np.isclose(thresholds, value) for value in (0.5, 0.75)]
    columns = {'AP': averages.by_area[:, 0]}
    for name, where in zip(('AP50', 'AP75'), shown):
        if where.any():
            columns[name] = averages.by_iou[:, where][:, 0]
    by_class = np.array(list(columns.values())).T  # classes + 1, columns
    chosen = figures.choose_ends(by_class[:-1, 0], figures.MAX_CURVES)
    ends = figures.tell_ends(len(classes), figures.MAX_CURVES)
    pictures = [
        Picture(
            'ap_by_class.png',
            figures.draw_class_averages(by_class[:-1], classes, list(columns)),
            'Average precision of each class',
            'AP is the mean over IoUs from 0.5 to 0.95, AP50 asks for half an overlap.',
        ),
        Picture(
            'ap_by_size.png',
            figures.draw_size_averages(averages.by_area[-1], SIZES),
            'Average precision by the size of the objects',
            'Sizes are areas in pixels of the image files. If small objects are found '
            'worse, train with larger images.',
        ),
        Picture(
            'ap_by_iou.png',
            figures.draw_class_curves(
                f'Average precision by IoU{ends}',
                ('IoU that a box must reach', 'average precision'),
                thresholds,
                averages.by_iou,
                classes,
                chosen,
                limits=(float(thresholds[0]), float(thresholds[-1])),
            ),
            'Average precision against the IoU that a box must reach',
            'A line that falls early means boxes in the right place that fit badly.',
        ),
    ]
    named = [*classes, ALL]
    rows = [
        (name, *map(show_share, row)) for name, row in zip(named, by_class.tolist())
    ]
    iou_columns = [f'AP_{value:.2f}' for value in thresholds]
    csv_columns = ['class', *(f'AP_{area}' for area in AREAS), *iou_columns]
    csv_rows = (
        (name, *sizes, *ious)
        for name, sizes, ious in zip(
            named, averages.by_area.tolist(), averages.by_iou.tolist()
        )
    )
    return Section(
        'precision',
        'How well it detects',
        'Average precision sums up, over all scores, how many detections are right and '
        'how many objects are found: 0 is nothing, 1 is perfect.',
        [
            Block(table=Table(('class', *columns), bound_rows(rows))),
            Block(pictures=pictures),
        ],
        {'average_precision.csv': write_csv(csv_columns, csv_rows)},
    )


def describe_scores(matching: Matching, best: curves.BestScores) -> Section:
    """Precision, recall and F1 against the score, and the best scores."""
    traced = curves.trace_scores(matching)
    recalls = curves.trace_recalls(matching)
    classes = matching.classes
    averages = recalls.precision.mean(axis=1)
    chosen = figures.choose_ends(averages[:-1], figures.MAX_CURVES)
    ends = figures.tell_ends(len(classes), figures.MAX_CURVES)
    mark = best.all.score if best.all else None
    charts = [
        (
            'f1.png',
            'F1',
            traced.f1,
            'F1 weighs precision and recall alike. Its peak is the best score where '
            'both count alike.',
        ),
        (
            'precision.png',
            'Precision',
            traced.precision,
            'How many of the detections are right, if those below the score are left '
            'out.',
        ),
        (
            'recall.png',
            'Recall',
            traced.recall,
            'How many of the annotated objects are found.',
        ),
    ]
    pictures = [
        Picture(
            name,
            figures.draw_class_curves(
                f'{title} against the score{ends}',
                ('minimum score', title),
                traced.scores,
                values,
                classes,
                chosen,
                mark=mark,
            ),
            f'{title} against the minimum score, by class',
            caption,
        )
        for name, title, values, caption in charts
    ]
    pictures.insert(
        0,
        Picture(
            'precision_recall.png',
            figures.draw_class_curves(
                f'Precision against recall{ends}',
                ('recall', 'precision'),
                recalls.recalls,
                recalls.precision,
                classes,
                chosen,
                all_name='mean',
            ),
            'Precision against recall, by class',
            'The nearer to the top right corner, the better. Where a curve drops to 0, '
            'the rest of the objects is not found at any score.',
        ),
    )
    found = [(name, best.classes.get(name)) for name in classes] + [(ALL, best.all)]
    rows = [
        (name, *(map(show_share, one) if one else ['–'] * 4)) for name, one in found
    ]
    nothing = [math.nan] * 4
    return Section(
        'scores',
        'Which score to use',
        'Each detection has a score from 0 to 1, and those below a minimum are left '
        'out. A higher minimum gives fewer false detections and more missed objects. '
        'All numbers are at IoU 0.5.',
        [
            Block(
                'Best minimum scores',
                'The score at which F1 is highest. --score-thr best takes each '
                "class's own.",
                Table(
                    ('class', 'score', 'F1', 'precision', 'recall'), bound_rows(rows)
                ),
            ),
            Block(pictures=pictures),
        ],
        {
            'best_scores.csv': write_csv(
                ('class', 'score', 'f1', 'precision', 'recall'),
                ((name, *(one or nothing)) for name, one in found),
            ),
            'scores.csv': write_csv(
                ('class', 'score', 'precision', 'recall', 'f1'),
                _list_points(
                    [*classes, ALL],
                    (traced.scores, traced.precision, traced.recall, traced.f1),
                ),
            ),
            'precision_recall.csv': write_csv(
                ('class', 'recall', 'precision'),
                _list_points([*classes, ALL], (recalls.recalls, recalls.precision)),
            ),
        },
    )


def _list_points(
    names: Sequence[str], values: tuple[np.ndarray, ...]
) -> Iterable[Sequence[object]]:
    """Rows of a name, a place on the axis, and the values of curves there.

    Args:
        names: (n,).
        values: The axis, (S,), and curves, (n, S).
    """
    axis, *traced = values
    for number, name in enumerate(names):
        for row in zip(axis.tolist(), *(curve[number].tolist() for curve in traced)):
            yield name, *row


def describe_confusion(matching: Matching, threshold: np.ndarray) -> Section:
    """What was taken for what, with background."""
    matrix = curves.count_confusion(matching, threshold)
    classes = matching.classes
    grouped = len(classes) > figures.MAX_CELLS
    caption = (
        'Each row is what was annotated, each column what was detected. The diagonal '
        'is right, the last column was missed, and the last row was detected where '
        'nothing is annotated. Colours are shares of a row.'
    )
    if grouped:
        caption += f' The {figures.MAX_CELLS} most confused classes stand alone.'
    names = [*classes, 'background']
    return Section(
        'confusion',
        'What it mixes up',
        "The detections at each class's best score, compared with the objects that "
        'they overlap by IoU 0.5 or more.',
        [
            Block(
                pictures=[
                    Picture(
                        'confusion.png',
                        figures.draw_confusion(matrix, classes),
                        'Confusion matrix: annotated by detected classes',
                        caption,
                    )
                ]
            )
        ],
        {
            'confusion.csv': write_csv(
                ('annotated', *names),
                ((name, *map(int, row)) for name, row in zip(names, matrix)),
            )
        },
    )


def describe_faults(
    matching: Matching, threshold: np.ndarray
) -> tuple[Section, list[str]]:
    """The images with most faults; and why some are not drawn, in sentences."""
    faults = [
        *curves.find_faults(matching, threshold),
        *list_loose(matching, threshold),
    ]
    blocks, unread = draw_worst_images(matching, faults, threshold)
    section = Section(
        'errors',
        'What it gets wrong',
        "Validation images with the worst results, at each class's best score. Look "
        'for what they have in common, and for annotations that are wrong themselves.',
        [Block(legend=LEGEND), *blocks],
        {
            'errors.csv': write_csv(
                ('image', 'kind', 'class', 'score', 'x1', 'y1', 'x2', 'y2', 'why'),
                (_list_fault(matching, fault) for fault in faults),
            )
        },
    )
    return section, unread


def _list_fault(matching: Matching, fault: curves.Fault) -> Sequence[object]:
    missed = fault.kind == 'missed'
    objects = matching.truths if missed else matching.detections
    index = fault.truth if missed else fault.detection
    image = matching.images[fault.image]
    return (
        image.path or image.id,
        fault.kind,
        matching.classes[objects.label[index]],
        math.nan if missed else float(matching.detections.score[index]),
        *(round(float(value), 1) for value in objects.box[index]),
        fault.why,
    )


# ------------------------------------------------------------------- data and speed


def describe_labels(splits: Mapping[str, LabelStatistics]) -> Section:
    """The boxes that the detector was trained and judged on.

    Args:
        splits: By their names; they have the same classes.
    """
    classes = next(iter(splits.values())).classes
    columns, rows = tabulate_labels(splits)
    sums = [
        (
            split,
            f'{len(s.per_image):,}',
            f'{len(s.labels):,}',
            f'{s.per_image.mean() if len(s.per_image) else 0:.1f}',
            f'{int((s.per_image == 0).sum()):,}',
        )
        for split, s in splits.items()
    ]
    boxed = {split: s for split, s in splits.items() if len(s.labels)}
    pictures = [
        Picture(
            'labels_classes.png',
            figures.draw_class_counts(
                {k: s.by_class for k, s in splits.items()}, classes
            ),
            'Number of boxes by class',
            'Classes with few boxes are learnt worst. Training and validation should '
            'be mixed alike.',
        ),
        Picture(
            'labels_per_image.png',
            figures.draw_box_counts({k: s.per_image for k, s in splits.items()}),
            'Number of boxes per image',
        ),
    ]
    if boxed:
        pictures += [
            Picture(
                'labels_sizes.png',
                figures.draw_planes(
                    'Width and height, in parts of the image',
                    {k: s.shares for k, s in boxed.items()},
                    ('width', 'height'),
                ),
                'Widths and heights of the boxes, as shares of the image',
                'Darker where more boxes are. Boxes of a hundredth of the image are '
                'hard to find in small input images.',
            ),
            Picture(
                'labels_centres.png',
                figures.draw_planes(
                    'Centres, in parts of the image',
                    {k: s.centres for k, s in boxed.items()},
                    ('x', 'y'),
                    downwards=True,
                ),
                'Where the centres of the boxes lie in the image',
                'A pattern here, as objects always in the middle, is one that the '
                'detector may count on.',
            ),
        ]
    return Section(
        'labels',
        'The data',
        'The annotated boxes that the detector was trained and judged on.',
        [
            Block(
                table=Table(
                    ('split', 'images', 'boxes', 'boxes per image', 'without boxes'),
                    sums,
                )
            ),
            Block(pictures=pictures),
        ],
        {'labels.csv': write_csv(columns, rows)},
    )


def describe_batches(sheets: Sequence[bytes]) -> Section:
    """The first training batches.

    Args:
        sheets: JPEG files.
    """
    return Section(
        'batches',
        'What the model saw',
        'The first batches of the training, after all augmentation. Boxes must still '
        'fit their objects here, and a person should still recognise these.',
        [
            Block(
                pictures=[
                    Picture(
                        f'batch_{number}.jpg',
                        sheet,
                        f'Training batch {number} with its boxes',
                        f'Batch {number}',
                        wide=True,
                    )
                    for number, sheet in enumerate(sheets, start=1)
                ]
            )
        ],
    )


def describe_speed(speed: Speed) -> Section:
    """How long an image takes here."""
    rows = [
        ('read and resize the image', f'{1000 * speed.loading:.1f} ms', ''),
        (
            'detect, with postprocessing',
            f'{1000 * speed.detecting:.1f} ms',
            f'{1 / speed.detecting:.1f}',
        ),
    ]
    times = [speed.loading, speed.detecting]
    return Section(
        'speed',
        'Speed here',
        f'One image at a time in PyTorch, on {speed.device}: the median of '
        f'{speed.images} images. An exported file may be faster.',
        [Block(table=Table(('step', 'time', 'images a second'), rows))],
        {
            'speed.csv': write_csv(
                ('step', 'seconds', 'images', 'device'),
                (
                    (step, seconds, speed.images, speed.device)
                    for step, seconds in zip(('loading', 'detecting'), times)
                ),
            )
        },
    )


def describe_metrics(metrics: Mapping[str, float]) -> Section:
    """The numbers of an evaluator that keeps no matching."""
    rows = [(name, f'{value:.3f}') for name, value in metrics.items()]
    return Section(
        'precision',
        'How well it detects',
        "The numbers of the config's evaluator on the validation images.",
        [Block(table=Table(('metric', 'value'), bound_rows(rows)))],
        {'metrics.csv': write_csv(('metric', 'value'), metrics.items())},
    )
