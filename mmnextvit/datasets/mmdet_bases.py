"""What the checks use of MMDetection's datasets, which they are mixed in before.

A type checker alone sees these classes. At run time the mixins have no base of their
own: ``super()`` leads from them to the dataset that they are mixed in before.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:

    class DetDataset:
        """MMDetection's ``BaseDetDataset``, and MMEngine's ``BaseDataset`` below it."""

        ann_file: str
        data_root: str | None
        data_prefix: dict[str, str]
        backend_args: dict | None
        filter_cfg: dict | None
        test_mode: bool
        data_list: Sequence[dict]
        _metainfo: dict[str, Any]
        _fully_initialized: bool

        def __init__(self, *args: Any, **kwargs: Any) -> None: ...

        def __len__(self) -> int: ...

        @property
        def metainfo(self) -> dict[str, Any]: ...

        def full_init(self) -> None: ...

        def parse_data_info(self, raw_data_info: dict) -> dict: ...

        def _join_prefix(self) -> None: ...

        def load_data_list(self) -> Sequence[dict]: ...

        def filter_data(self) -> Sequence[dict]: ...

        def _serialize_data(self) -> tuple[np.ndarray, np.ndarray]: ...

        def prepare_data(self, idx: int) -> Any: ...

        def get_data_info(self, idx: int) -> dict: ...

        def get_subset_(self, indices: list[int]) -> None: ...

    class XMLDataset(DetDataset):
        """MMDetection's ``XMLDataset``, of Pascal VOC."""

        ann_subdir: str
        img_subdir: str
        sub_data_root: str
        bbox_min_size: int | None

else:
    DetDataset = XMLDataset = object
