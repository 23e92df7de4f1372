"""What datasets of our own have in common, that MMDetection has no reader for."""

import logging
from collections.abc import Iterable, Mapping, Sequence

from mmdet.datasets import CocoDataset
from mmengine.logging import print_log

from ..utils.messages import first_few
from .checks import VerifiedDataMixin
from .faults import warn


def count_content(data_list: Sequence[dict]) -> str:
    """What a data set holds, in a line."""
    boxes = [len(data['instances']) for data in data_list]
    return (
        f'{len(boxes)} images, {sum(boxes)} boxes; {boxes.count(0)} images without a '
        'box are background'
    )


def filter_samples(
    data_list: Iterable[dict], filter_empty_gt: bool = False, min_size: int = 0
) -> list[dict]:
    """Leaves out images as MMDetection's ``filter_cfg`` says.

    Args:
        data_list: Samples.
        filter_empty_gt: Leave out images without a box.
        min_size: The smallest width and height of an image in pixels.
    """
    return [
        data
        for data in data_list
        if (data['instances'] or not filter_empty_gt)
        and min(data['width'], data['height']) >= min_size
    ]


class OwnDataMixin(VerifiedDataMixin):
    """A dataset whose list is read by us alone; mix it in before ``BaseDetDataset``."""

    METAINFO = dict(palette=CocoDataset.METAINFO['palette'])  # to be joined with COCO's

    @property
    def _title(self) -> str:
        """How messages call the data set."""
        return self.ann_file

    def _note(self, message: str) -> None:
        print_log(f'{self._title}: {message}', logger='current', level=logging.INFO)

    def _warn_of(self, report: Mapping[str, Sequence[str]]) -> None:
        """Says in one warning what is odd.

        Args:
            report: Images and ``file:line`` of lines, by what there is to say.
        """
        remarks = [
            f'{len(places)} {remark}: {first_few(places)}'
            for remark, places in report.items()
            if places
        ]
        if remarks:
            warn(f'{self._title}: {"; ".join(remarks)}')

    def filter_data(self) -> Sequence[dict]:
        if self.test_mode:
            return self._check_filtered(self.data_list)
        cfg = self.filter_cfg or {}
        known = {k: cfg[k] for k in ('filter_empty_gt', 'min_size') if k in cfg}
        return self._check_filtered(filter_samples(self.data_list, **known))
