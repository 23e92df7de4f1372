"""A hook that compares the head with the data, and reports what images were odd."""

from mmengine.dist import all_reduce
from mmengine.evaluator import DumpResults, Evaluator
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import nn

from ..datasets.faults import describe_remarks
from ..datasets.samples import list_datasets
from ..recipes import check_followed
from ..utils.errors import UserError
from ..utils.messages import first_few
from .runner import unwrap_model


def list_class_counts(model: nn.Module) -> dict[str, int]:
    """``num_classes`` of a model's box and mask heads, where its config sets them.

    That is in the innermost modules, but for those that derive theirs from another, as
    assigners do in our detector.
    """
    counts: dict[str, int] = {}
    derived: set[str] = set()
    for name, module in model.named_modules():
        derived |= {f'{name}.{head}' for head in getattr(module, 'derived_heads', ())}
        number = getattr(module, 'num_classes', None)
        parts = set(name.split('.'))
        if number is None or 'assigner' in parts:
            continue
        if {'bbox_head', 'mask_head'} & parts:
            counts = {n: c for n, c in counts.items() if not name.startswith(f'{n}.')}
            if name not in derived:
                counts[name] = number
    return counts


def describe_counts(counts: dict[str, int], number: int) -> str:
    """What to write into a config for heads that have another number of classes.

    Args:
        counts: Those of :func:`list_class_counts`.
        number: How many classes there are.
    """
    wrong = [name for name, count in counts.items() if count != number]
    return ' and '.join(f'model.{name}.num_classes={number}' for name in wrong)


def explain_missing_truth(dataset: object) -> str:
    """Why no prediction could be right on a dataset; nothing where one could be.

    Boxes of other classes than the config's are none of the dataset's, and crowds and
    boxes to be ignored do not count. Data that have no boxes by their kind are left
    alone.
    """
    parts = [p for p in list_datasets(dataset) if hasattr(p, 'get_data_info')]
    images = ignored = 0
    for part in parts:
        for index in range(len(part)):
            boxes = part.get_data_info(index).get('instances')
            if boxes is None or any(not box.get('ignore_flag') for box in boxes):
                return ''
            images += 1
            ignored += len(boxes)
    if not parts:
        return ''
    classes = first_few(getattr(parts[0], 'metainfo', {}).get('classes', ()))
    if ignored:
        return (
            f'none of its {images} images has a box that counts: all {ignored} boxes '
            f'of the classes ({classes}) are crowds or to be ignored (iscrowd, ignore, '
            'difficult)'
        )
    return f'none of its {images} images has a box of the classes ({classes})'


def compares_with_truth(evaluator: Evaluator) -> bool:
    """Whether it does more than to write predictions."""
    return any(
        not (isinstance(metric, DumpResults) or getattr(metric, 'format_only', False))
        for metric in evaluator.metrics
    )


@HOOKS.register_module()
class DataReportHook(Hook):
    """Compares head and data before they meet, and reports what images were odd.

    After each epoch it counts and names the images that were skipped as broken, those
    that lack their last rows, and those whose orientation is not settled.

    Raises:
        UserError: ``num_classes`` of a box or mask head is not the number of classes
            of the data that it is trained, validated or tested on; or what it is to be
            validated or tested on has no box that counts, so that its mAP would be -1;
            or a setting of the recipe was changed in a way that nothing follows.
    """

    def __init__(self) -> None:
        self._seen: list[object] = []  # datasets that were found to do

    def before_run(self, runner: Runner) -> None:
        """Other programs' commands don't read a file anew, as ours do for a setting."""
        check_followed(runner.cfg)

    def before_train(self, runner: Runner) -> None:
        self._check_num_classes(runner, 'train')
        if runner.val_loop is not None:
            self.before_val(runner)

    def before_val(self, runner: Runner) -> None:
        self._check_num_classes(runner, 'val')
        self._check_truth(runner, 'val')

    def before_test(self, runner: Runner) -> None:
        self._check_num_classes(runner, 'test')
        self._check_truth(runner, 'test')

    def _check_truth(self, runner: Runner, mode: str) -> None:
        dataset = getattr(runner, f'{mode}_dataloader').dataset
        if any(dataset is one for one in self._seen):
            return
        reason = explain_missing_truth(dataset)
        if not reason or not compares_with_truth(getattr(runner, f'{mode}_evaluator')):
            self._seen.append(dataset)
            return
        without = 'train without validation (val_dataloader, val_evaluator and val_cfg'
        raise UserError(
            f'there is nothing to measure the {mode} data by: {reason}. Label some of '
            f'these images, or take others by {mode}_dataloader.dataset.ann_file'
            + (f', or {without} = None)' if mode == 'val' else ''),
            file=getattr(list_datasets(dataset)[0], 'ann_file', None),
        )

    def _check_num_classes(self, runner: Runner, mode: str) -> None:
        dataset = getattr(runner, f'{mode}_dataloader').dataset
        classes = dataset.metainfo.get('classes', ())
        counts = list_class_counts(unwrap_model(runner))
        for number in counts.values():
            if number != len(classes):
                raise UserError(
                    f'The head has num_classes={number}, but the {mode} data has '
                    f'{len(classes)} classes ({first_few(classes)}): set '
                    f'{describe_counts(counts, len(classes))}, or '
                    f'{mode}_dataloader.dataset.metainfo=dict(classes=...) to the '
                    f"head's {number} classes"
                )

    def after_train_epoch(self, runner: Runner) -> None:
        self._report(runner, runner.train_dataloader.dataset)

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        self._report(runner, runner.val_dataloader.dataset)

    def after_test_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        self._report(runner, runner.test_dataloader.dataset)

    def _report(self, runner: Runner, dataset: object) -> None:
        for part in list_datasets(dataset):
            marked = {}
            for key, marks in getattr(part, 'marks', {}).items():
                marks = marks.int()
                all_reduce(marks, 'max')  # each process meets its own share
                indices = marks.nonzero().flatten().tolist()
                paths = (part.get_data_info(i)['img_path'] for i in indices)
                marked[key] = list(dict.fromkeys(paths))  # some come several times
            images = len(getattr(part, 'distinct', part))
            for line in describe_remarks(marked, images, part.ann_file):
                runner.logger.warning(line)
