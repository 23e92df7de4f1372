"""Detect objects in images, videos and streams, and draw them.

INPUT is an image, a video, a folder of them, a pattern in quotes ('a/**/*.jpg'), a list
of them (.txt, or - for standard input), a webcam's number or an address (rtsp://,
http://); or several of these.
The output folder gets what is drawn, under `drawn/`, and `predictions.json`:

    {"config": ..., "checkpoint": ..., "classes": [...],
     "score_thr": 0.3, or with --score-thr best {class: score},
     "box_format": "x1, y1, x2, y2 in pixels, from the image's top left corner",
     "predictions": [{"file": ..., "frame": 0 (of videos only), "drawn": ...,
                      "objects": [{"class": ..., "score": ..., "box": [...]}],
                      "feature_maps": folder (with --feature-maps only)}],
     "unreadable": {file: reason}}

What is interrupted leaves what was found so far. The JSON then has "partial", which
says why it ends early, and a video that was not drawn to its end has no "drawn".

--feature-maps draws, for every image, the backbone's maps and the neck's, row by row,
into a folder of its own under `feature_maps/`, with an `overview.png` of all.

--save-labels coco,yolo,voc,labelme (or some of them) writes what is found as labels to
be corrected: `labels/coco/` and so on, each with the images, as label tools and
`mmnextvit new` open them. `doubts.csv` lists the images, those first where the model
doubts most. The entries of the JSON then have "width", "height", "doubt" and "reason",
and their objects "polygons" where the model finds masks.

`predictions.jsonl` has the same entries, each in a line as soon as it is there.
docs/video.md tells about webcams, streams and --track.

--slice 640 also looks for small objects in large images, tile by tile.
"""

import argparse
from contextlib import closing

from ..labels.choices import parse_formats
from ..utils.errors import UserError
from ..utils.files import check_folder, check_new_folder
from .arguments import (
    add_amp,
    add_detector,
    add_slicing,
    add_sources,
    add_threshold,
    begin,
    load_config,
    read_choices,
    read_slicing,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_detector(parser, 'checkpoint, or exported file or folder', export_alone=True)
    parser.add_argument(
        'input',
        nargs='+',
        help='image, video, folder, quoted pattern, list, webcam or stream; or several',
    )
    parser.add_argument(
        '--out-dir', help='a new folder (./predictions/<date and time>)'
    )
    add_amp(parser)
    parser.add_argument('--device', help='cpu, cuda:0, ... (a GPU where there is one)')
    add_threshold(parser, 'minimum score')
    shape = parser.add_mutually_exclusive_group()
    shape.add_argument(
        '--rect',
        action='store_true',
        default=None,
        help="pad to the smallest rectangle, as YOLOv5's detect.py (the config's way)",
    )
    shape.add_argument(
        '--square', dest='rect', action='store_false', help='pad to a square'
    )
    add_sources(parser)
    add_slicing(parser)
    parser.add_argument(
        '--feature-maps',
        action='store_true',
        help="draw the output of each row, under feature_maps/ (a video's first frame)",
    )
    parser.add_argument(
        '--save-labels',
        action='extend',
        type=to_formats,
        default=[],
        metavar='FORMAT',
        help='write labels, too: coco, yolo, voc, labelme, or several (coco,yolo)',
    )


def to_formats(text: str) -> list[str]:
    """Names of formats of labels, for argparse."""
    try:
        return parse_formats(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def run(args: argparse.Namespace) -> None:
    if args.out_dir:
        check_new_folder(args.out_dir)
    else:
        check_folder('predictions')
    begin(args)

    from ..apis import Predictor
    from ..datasets.sources import check_has_images, find_inputs
    from ..deploy.exported import is_exported, user_errors
    from ..engine.prediction import open_results, predict_files
    from ..runtime import stop_by_key

    choices, slicing = read_choices(args), read_slicing(args)
    if slicing and args.feature_maps:
        raise UserError(
            '--feature-maps draws what the network computes of a whole image, and '
            '--slice cuts it into tiles: leave one out'
        )
    cfg = load_config(args) if args.config else None
    if args.feature_maps and is_exported(args.checkpoint):
        raise UserError('--feature-maps needs a checkpoint: exported files keep none')
    files = find_inputs(*args.input)
    with user_errors():
        choices.check(files)
    if args.save_labels:
        check_has_images(files)
    predictor = Predictor(
        *(cfg, args.checkpoint, args.device, args.amp, args.rect), slicing=slicing
    )
    used = predictor.find_thresholds(args.score_thr)
    by_class = isinstance(used, list) and dict(zip(predictor.classes, used))
    about = {
        'config': args.config,
        'checkpoint': args.checkpoint,
        'score_thr': by_class or used,
        'classes': predictor.classes,
    }
    with (
        stop_by_key(),
        open_results(args.out_dir, about, args.save_labels, True) as results,
    ):
        found = predict_files(
            *(predictor, files, results.folder, args.score_thr, args.feature_maps),
            with_labels=bool(args.save_labels),
            prepare=predictor.prepare,
            choices=choices,
        )
        with closing(found):
            for one in found:
                results.predictions.add(one)
    predictions = results.predictions
    print(f'{predictions.summarize()}: {results.folder}')
    for line in results.describe_labels():
        print(line)
    if predictions.unreadable:
        reasons = predictions.unreadable.values()
        raise UserError('\n'.join(['These files could not be read:', *reasons]))
