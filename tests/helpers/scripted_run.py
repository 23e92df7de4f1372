"""A training of milliseconds by MMEngine's own runner, with chosen scores."""

from itertools import count
from operator import itemgetter
from pathlib import Path

import torch
from mmengine.evaluator import BaseMetric
from mmengine.logging import MessageHub
from mmengine.model import BaseModel
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement
from torch import nn
from torch.utils.data import DataLoader

_numbers = count()  # so that no two runs of a process share MMEngine's message hub


class Line(BaseModel):
    """Learns one number, a thousand times."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Linear(1000, 1, bias=False)
        nn.init.zeros_(self.backbone.weight)

    def forward(self, inputs: torch.Tensor, mode: str) -> object:
        if mode == 'predict':
            return [BaseDataElement()]
        return dict(loss=(self.backbone.weight - inputs).square().sum())


class Scores(BaseMetric):
    """Gives a run's scores, one after another by its epochs."""

    def __init__(self, scores: list[float]) -> None:
        super().__init__()
        self.scores = scores

    def process(self, data_batch: object, data_samples: object) -> None:
        self.results.append(0)

    def compute_metrics(self, results: list) -> dict[str, float]:
        epoch = MessageHub.get_current_instance().get_info('epoch')
        return dict(score=self.scores[epoch])


def build_scripted_run(
    work_dir: Path,
    scores: list[float],
    resume: Path | str | None = None,
    epochs: int | None = None,
    hooks: tuple = (),
    batches: int = 2,
    **checkpoint: object,
) -> Runner:
    """A run of as many epochs as it has scores, of two iterations each by default.

    Args:
        work_dir: Its folder.
        scores: What each validation finds.
        resume: The checkpoint to go on from.
        epochs: After how many it ends, if not after all.
        hooks: Further ones.
        batches: Iterations of an epoch.
        checkpoint: Arguments of ``CheckpointHook``.
    """
    settings = dict(type='CheckpointHook', save_best='score', rule='greater')
    data = [dict(inputs=torch.ones(1)) for _ in range(batches)]
    return Runner(
        Line(),
        str(work_dir),
        train_dataloader=DataLoader(data, collate_fn=itemgetter(0)),
        train_cfg=dict(by_epoch=True, max_epochs=epochs or len(scores)),
        val_dataloader=DataLoader(data[:1], collate_fn=itemgetter(0)),
        val_cfg=dict(),
        val_evaluator=[Scores(scores)],
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9)),
        param_scheduler=dict(type='LinearLR', start_factor=0.5, end=4),
        default_hooks=dict(checkpoint=settings | dict(interval=1) | checkpoint),
        custom_hooks=[dict(type='CheckpointFitHook'), *hooks],
        load_from=None if resume is None else str(resume),
        resume=resume is not None,
        experiment_name=f'scripted_{next(_numbers)}',
    )
