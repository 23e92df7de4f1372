# MMYOLO's recipe of RTMDet-s for COCO (300 epochs, 8 GPUs with 32 images each), with
# our checks of data, losses and checkpoints.
_base_ = [
    'mmyolo::rtmdet/rtmdet_s_syncbn_fast_8xb32-300e_coco.py',
    './verified_coco.py',
]

train_dataloader = dict(
    collate_fn=dict(_base_.collate, _delete_=True), dataset=_base_.verified_coco
)
val_dataloader = test_dataloader = dict(dataset=_base_.verified_coco)
val_evaluator = test_evaluator = _base_.verified_metric
auto_scale_lr = dict(enable=False, base_batch_size=256)  # of mmnextvit train
ema, switch = _base_.custom_hooks
custom_hooks = []  # for those of other configs, which so keep these two
default_hooks = dict(_base_.checks, ema=ema, pipeline_switch=switch)
