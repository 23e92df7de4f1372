"""The charts of a report, as PNGs.

Colours are those of Okabe and Ito, which colour-blind people can tell apart. Of many
classes the best and the worst are drawn; the CSV files have all of them.
"""

import io
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache

import numpy as np
from matplotlib import font_manager, rc_context
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .history import History, is_loss, is_rate, list_metrics

BLUE, ORANGE, GREEN = '#0072b2', '#e69f00', '#009e73'
COLOURS = (BLUE, ORANGE, GREEN, '#cc79a7', '#d55e00', '#56b4e9', '#8a7f00', '#7a5195')
DASHES = ('-', '--', ':')  # for more curves than there are colours
INK, SOFT, GRID = '#1c2430', '#5b6675', '#e6eaee'
RAMP = LinearSegmentedColormap.from_list('paper', ['#ffffff', '#9ecae8', '#00507d'])

MAX_CURVES = 10  # of classes in one chart
MAX_BARS = 24
MAX_CELLS = 16  # rows of the confusion matrix
MAX_TERMS = 8  # of the loss

# Beside matplotlib's own font, which has no Chinese, Japanese and Korean characters.
FONTS = (
    'Noto Sans CJK SC',
    'Noto Sans CJK JP',
    'WenQuanYi Micro Hei',
    'Microsoft YaHei',
    'Hiragino Sans GB',
    'Malgun Gothic',
)

STYLE = {
    'font.size': 10.5,
    'text.color': INK,
    'axes.edgecolor': '#aab2bc',
    'axes.labelcolor': SOFT,
    'axes.titlecolor': INK,
    'axes.titlesize': 11.5,
    'axes.titleweight': 'bold',
    'axes.titlelocation': 'left',
    'axes.spines.top': False,
    'axes.spines.right': False,
    'axes.grid': True,
    'axes.axisbelow': True,
    'grid.color': GRID,
    'xtick.color': SOFT,
    'ytick.color': SOFT,
    'legend.frameon': False,
    'legend.fontsize': 9,
    'text.parse_math': False,  # a class may be called $x
    'savefig.dpi': 130,
}


@cache
def _list_fonts() -> tuple[str, ...]:
    installed = {font.name for font in font_manager.fontManager.ttflist}
    return 'DejaVu Sans', *(name for name in FONTS if name in installed)


@contextmanager
def _styled() -> Iterator[None]:
    """matplotlib's settings of our charts, in the block alone."""
    with rc_context({**STYLE, 'font.family': list(_list_fonts())}):
        yield


def _save(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # A character that no font has is drawn as a box; the page itself has it.
        warnings.filterwarnings('ignore', 'Glyph .* missing')
        figure.savefig(buffer, format='png', metadata={'Software': None})
    return buffer.getvalue()


def _make_axes(
    title: str = '', width: float = 6.2, height: float = 3.9, columns: int = 1
) -> tuple[Figure, list[Axes]]:
    figure = Figure((width, height), layout='constrained')
    axes = list(figure.subplots(1, columns, squeeze=False)[0])
    axes[0].set_title(title)
    return figure, axes


def _list_curves(axes: Axes) -> None:
    """A legend beside the chart; to look for a free place in it takes seconds."""
    axes.legend(loc='center left', bbox_to_anchor=(1, 0.5))


def shorten_name(name: str, length: int = 22) -> str:
    """A class's name, of a long one its begin and end."""
    if len(name) <= length:
        return name
    half = (length - 1) // 2
    return f'{name[:half]}…{name[-half:]}'


def choose_ends(values: np.ndarray, limit: int) -> list[int]:
    """Of many classes those with the highest and lowest values, by falling value.

    Args:
        values: (C,); classes with NaN come last, and are left out where there are too
            many.
        limit: How many are chosen at most.
    """
    order = [int(i) for i in np.argsort(-np.nan_to_num(values, nan=-1), kind='stable')]
    if len(order) <= limit:
        return order
    order = [i for i in order if not np.isnan(values[i])]
    if len(order) <= limit:
        return order
    return order[: limit - limit // 2] + order[-(limit // 2) :]


def tell_ends(count: int, limit: int) -> str:
    """What a chart leaves out, for its title."""
    if count <= limit:
        return ''
    return f' (best {limit - limit // 2} and worst {limit // 2} of {count} classes)'


# ----------------------------------------------------------------------------- training


def _smooth(values: Sequence[float]) -> np.ndarray:
    """A moving mean of a fiftieth of the values, each at its window's end."""
    window = max(1, len(values) // 50)
    sums = np.cumsum(np.concatenate([[0.0], values]))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - window, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)


def _label_progress(axes: Axes, history: History) -> None:
    axes.set_xlabel('epoch' if history.by_epoch else 'iteration')
    for number, place in enumerate(history.restarts):
        label = 'resumed' if number == 0 else None
        axes.axvline(place, color=SOFT, linewidth=0.8, linestyle=':', label=label)


def choose_terms(history: History) -> list[str]:
    """The terms of the loss that are drawn: their sum, and those that weigh most."""
    names = [name for name in history.list_names() if is_loss(name)]
    weights = {n: float(np.nansum(history.trace(n)[1])) for n in names}
    sums = [name for name in names if name.rpartition('/')[2] == 'loss']
    terms = sorted(set(names) - set(sums), key=lambda name: (-weights[name], name))
    return sums + terms[: MAX_TERMS - len(sums)]


def draw_losses(history: History) -> bytes:
    """The loss and its terms, in training and, dashed, in validation."""
    with _styled():
        figure, (axes,) = _make_axes('Loss')
        validated = {
            n.rpartition('/')[2]: n for n in history.list_names(True) if is_loss(n)
        }
        names = choose_terms(history) or list(validated)[:MAX_TERMS]
        for name, colour in zip(names, COLOURS):
            short = name.rpartition('/')[2]  # logs may have train/ before it
            width = 2.2 if short == 'loss' else 1.3
            places, values = history.trace(name)
            if len(values) >= 100:
                axes.plot(places, values, color=colour, linewidth=0.6, alpha=0.25)
                values = _smooth(values).tolist()
            if len(values):
                axes.plot(places, values, color=colour, linewidth=width, label=short)
            if short in validated:
                places, values = history.trace(validated[short], True)
                axes.plot(
                    places,
                    values,
                    '--o',
                    color=colour,
                    linewidth=width,
                    markersize=3.5,
                    label=f'{short}, validation',
                )
        axes.set_ylim(bottom=0)
        _label_progress(axes, history)
        _list_curves(axes)
        return _save(figure)


def draw_rates(history: History) -> bytes:
    """The learning rates."""
    with _styled():
        figure, (axes,) = _make_axes('Learning rate')
        rates = [name for name in history.list_names() if is_rate(name)]
        # Of groups with rates of their own, MMEngine logs the one of the rest too.
        names = [n for n in rates if n != 'base_lr' or 'lr' not in rates]
        names = names[: len(COLOURS)]
        for name, colour, dash in zip(names, COLOURS, DASHES * 3):
            axes.plot(*history.trace(name), dash, color=colour, label=name)
        axes.set_ylim(bottom=0)
        axes.ticklabel_format(axis='y', scilimits=(-2, 3))
        _label_progress(axes, history)
        if len(names) > 1 or history.restarts:
            _list_curves(axes)
        return _save(figure)


def draw_metrics(history: History) -> bytes:
    """mAP and what else was measured at each validation, from 0 to 1."""
    with _styled():
        figure, (axes,) = _make_axes('Average precision on the validation images')
        names = list_metrics(history)[: len(COLOURS)]
        highest = max(max(history.trace(name, True)[1]) for name in names)
        for name, colour in zip(names, COLOURS):
            short = name.rpartition('/')[2].removeprefix('bbox_')
            places, values = history.trace(name, True)
            values = [value if value >= 0 else np.nan for value in values]
            width = 2.2 if short == 'mAP' else 1.3
            axes.plot(
                places, values, '-o', color=colour, lw=width, markersize=3, label=short
            )
        axes.set_ylim(0, 1 if highest <= 1 else None)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        _label_progress(axes, history)
        _list_curves(axes)
        return _save(figure)


# --------------------------------------------------------------------------- detections


def draw_class_curves(
    title: str,
    labels: tuple[str, str],
    x: np.ndarray,
    curves: np.ndarray,
    classes: Sequence[str],
    chosen: Sequence[int],
    all_name: str = 'all classes',
    mark: float | None = None,
    limits: tuple[float, float] = (0, 1),
) -> bytes:
    """A curve for each chosen class, and one for all of them.

    Args:
        title: Of the chart.
        labels: Of the axes.
        x: (S,).
        curves: (classes + 1, S); the last one is over all classes.
        classes: Their names.
        chosen: Indices of the classes that are drawn.
        all_name: What the last curve is.
        mark: Where a vertical line is drawn.
        limits: Of the horizontal axis.
    """
    with _styled():
        figure, (axes,) = _make_axes(title)
        for number, index in enumerate(chosen):
            axes.plot(
                x,
                curves[index],
                color=COLOURS[number % len(COLOURS)],
                linestyle=DASHES[number // len(COLOURS) % len(DASHES)],
                linewidth=1.4,
                label=shorten_name(classes[index]),
            )
        axes.plot(x, curves[-1], color=INK, linewidth=2.4, label=all_name)
        if mark is not None:
            axes.axvline(mark, color=SOFT, linewidth=1, linestyle='--')
            side = -1 if mark > 0.8 else 1
            axes.annotate(
                f'{mark:.2f}',
                (mark, 0.02),
                (4 * side, 0),
                textcoords='offset points',
                ha='left' if side > 0 else 'right',
                color=SOFT,
            )
        axes.set(xlim=limits, ylim=(0, 1.02), xlabel=labels[0], ylabel=labels[1])
        _list_curves(axes)
        return _save(figure)


def group_confusion(
    matrix: np.ndarray, classes: Sequence[str], limit: int = MAX_CELLS
) -> tuple[np.ndarray, list[str]]:
    """A confusion matrix that can be read: the most confused classes, others summed.

    Args:
        matrix: (classes + 1, classes + 1); the last row and column are background.
        classes: Their names.
        limit: How many classes stay by themselves.

    Returns:
        The matrix, and the names of its rows and columns.
    """
    names = [*classes, 'background']
    if len(classes) <= limit:
        return matrix, names
    wrong = matrix - np.diag(np.diag(matrix))
    mixed = wrong[:-1, :-1].sum(0) + wrong[:-1, :-1].sum(1)
    order = np.lexsort((-(wrong[:-1].sum(1) + wrong[:, :-1].sum(0)), -mixed))
    kept = sorted(order[:limit].tolist())
    rest = sorted(set(range(len(classes))) - set(kept))
    groups = [[index] for index in kept] + [rest, [len(classes)]]
    grouped = np.array(
        [[matrix[np.ix_(rows, cols)].sum() for cols in groups] for rows in groups]
    )
    shown = [names[index] for index in kept] + [f'{len(rest)} others', 'background']
    return grouped, shown


def draw_confusion(matrix: np.ndarray, classes: Sequence[str]) -> bytes:
    """A confusion matrix with background: shares of each row, with the counts.

    Args:
        matrix: (classes + 1, classes + 1), truth by detection.
        classes: Their names.
    """
    cells, names = group_confusion(matrix, classes)
    shares = cells / np.maximum(cells.sum(axis=1, keepdims=True), 1)
    side = 2.4 + 0.42 * max(len(names), 4)
    with _styled():
        figure, (axes,) = _make_axes(width=side + 1.2, height=side)
        shares[-1, -1] = np.nan  # nothing is counted where nothing is
        axes.imshow(shares, cmap=RAMP, vmin=0, vmax=1)
        axes.grid(False)
        shown = [shorten_name(name, 16) for name in names]
        axes.set_xticks(range(len(names)), shown, rotation=40, ha='right')
        axes.set_yticks(range(len(names)), shown)
        axes.set(xlabel='detected as', ylabel='annotated as')
        size = 10 if len(names) <= 8 else 7
        for (row, column), count in np.ndenumerate(cells):
            if count:
                colour = 'white' if shares[row, column] > 0.55 else INK
                axes.text(
                    *(column, row, f'{int(count)}'),
                    color=colour,
                    ha='center',
                    va='center',
                    fontsize=size,
                )
        axes.spines[:].set_visible(False)
        return _save(figure)


def draw_class_averages(
    by_class: np.ndarray, classes: Sequence[str], names: Sequence[str]
) -> bytes:
    """Average precisions of classes as bars.

    Args:
        by_class: (classes, bars); classes come by the first one.
        classes: Their names.
        names: Of the bars.
    """
    chosen = choose_ends(by_class[:, 0], MAX_BARS)
    height = 1.3 + (0.14 + 0.17 * len(names)) * max(len(chosen), 2)
    with _styled():
        title = f'Average precision by class{tell_ends(len(classes), MAX_BARS)}'
        figure, (axes,) = _make_axes(title, height=max(2.6, height))
        _draw_bars(axes, by_class[chosen].T, [classes[i] for i in chosen], names)
        axes.set(xlim=(0, 1), xlabel='average precision')
        return _save(figure)


def _draw_bars(
    axes: Axes, values: np.ndarray, rows: Sequence[str], names: Sequence[str]
) -> None:
    """Horizontal bars: (names, rows), the first row at the top."""
    places, height = np.arange(len(rows)), 0.76 / len(names)
    for number, (name, row) in enumerate(zip(names, values)):
        offset = (number - (len(names) - 1) / 2) * height
        axes.barh(
            places + offset,
            np.nan_to_num(row),
            height * 0.94,
            color=COLOURS[number],
            label=name,
        )
    axes.set_yticks(places, [shorten_name(row) for row in rows])
    axes.invert_yaxis()
    axes.grid(axis='y', visible=False)
    if len(names) > 1:
        _list_curves(axes)


def draw_size_averages(values: np.ndarray, names: Sequence[str]) -> bytes:
    """The mean average precision by the size of the objects.

    Args:
        values: By size; NaN where there are no such objects.
        names: Of the sizes.
    """
    with _styled():
        figure, (axes,) = _make_axes('Average precision by size')
        places = np.arange(len(names))
        axes.bar(places, np.nan_to_num(values), 0.6, color=[SOFT, BLUE, BLUE, BLUE])
        for place, value in zip(places, values):
            text = 'none' if np.isnan(value) else f'{value:.2f}'
            at = (place, np.nan_to_num(value))
            axes.annotate(
                text, at, (0, 3), textcoords='offset points', ha='center', color=SOFT
            )
        axes.set_xticks(places, names)
        axes.grid(axis='x', visible=False)
        axes.set(ylim=(0, 1), ylabel='average precision')
        return _save(figure)


# ------------------------------------------------------------------------------- labels


def draw_class_counts(
    counts: Mapping[str, np.ndarray], classes: Sequence[str]
) -> bytes:
    """Boxes by class, of each split.

    Args:
        counts: (classes,) by split.
        classes: Their names.
    """
    total = np.sum(list(counts.values()), axis=0)
    chosen = choose_ends(total.astype(float), MAX_BARS)
    left_out = len(classes) > MAX_BARS
    title = 'Boxes by class' + (
        f' (most and fewest of {len(classes)} classes)' if left_out else ''
    )
    height = 1.3 + (0.14 + 0.17 * len(counts)) * max(len(chosen), 2)
    with _styled():
        figure, (axes,) = _make_axes(title, height=max(2.6, height))
        values = np.array([count[chosen] for count in counts.values()])
        _draw_bars(axes, values, [classes[i] for i in chosen], list(counts))
        fewest = min((n for n in total[chosen] if n), default=0)
        if total.max(initial=0) > 200 * fewest > 0:
            axes.set_xscale('symlog', linthresh=10)  # from 0 on
        axes.xaxis.set_major_formatter('{x:,.0f}')
        axes.set_xlabel('boxes')
        return _save(figure)


def draw_planes(
    title: str,
    points: Mapping[str, np.ndarray],
    labels: tuple[str, str],
    downwards: bool = False,
) -> bytes:
    """How many boxes lie where in a unit square, of each split.

    Args:
        title: Of the chart.
        points: (n, 2) by split, from 0 to 1.
        labels: Of the axes.
        downwards: Whether the second axis points down, as in images.
    """
    with _styled():
        figure, columns = _make_axes(
            title, 3.4 * len(points) + 0.3, 3.7, columns=len(points)
        )
        for axes, (split, values) in zip(columns, points.items()):
            x, y = np.clip(values, 0, 1).T
            hist, _, _ = np.histogram2d(x, y, bins=40, range=((0.0, 1.0), (0.0, 1.0)))
            axes.imshow(
                np.log1p(hist.T), cmap=RAMP, origin='lower', extent=(0, 1, 0, 1)
            )
            if downwards:
                axes.invert_yaxis()
            axes.set(xlabel=f'{labels[0]} ({split})')
            axes.set_ylabel(labels[1])
        return _save(figure)


def draw_box_counts(counts: Mapping[str, np.ndarray]) -> bytes:
    """How many boxes the images of each split have.

    Args:
        counts: (images,) by split.
    """
    largest = max((int(c.max(initial=0)) for c in counts.values()), default=0)
    step = max(1, -(-(largest + 1) // 30))
    edges = np.arange(0, largest + step + 1, step) - 0.5
    with _styled():
        figure, (axes,) = _make_axes('Boxes per image')
        for (split, values), colour in zip(counts.items(), COLOURS):
            share = np.histogram(values, edges)[0] / max(len(values), 1)
            axes.stairs(share, edges, color=colour, linewidth=1.8, label=split)
            axes.stairs(share, edges, color=colour, fill=True, alpha=0.15)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set(xlabel='boxes in an image', ylabel='share of the images')
        axes.legend(loc='upper right')
        return _save(figure)
