# MMYOLO's recipe of YOLOv8-s for COCO (500 epochs, 8 GPUs with 16 images each),
# without Albumentations, with our checks of data, losses and checkpoints.
_base_ = [
    'mmyolo::yolov8/yolov8_s_syncbn_fast_8xb16-500e_coco.py',
    './verified_coco.py',
]

train_pipeline, train_pipeline_stage2 = (
    [t for t in pipeline if t['type'] != 'mmdet.Albu']
    for pipeline in (_base_.train_pipeline, _base_.train_pipeline_stage2)
)
switch = dict(_base_.custom_hooks[1], switch_pipeline=train_pipeline_stage2)
custom_hooks = []  # for those of other configs, which so keep these two
train_dataloader = dict(
    collate_fn=dict(_base_.collate, _delete_=True),
    dataset=dict(_base_.verified_coco, pipeline=train_pipeline),
)
val_dataloader = test_dataloader = dict(dataset=_base_.verified_coco)
val_evaluator = test_evaluator = _base_.verified_metric
auto_scale_lr = dict(enable=False, base_batch_size=128)  # of mmnextvit train
optim_wrapper = dict(constructor='ThreeGroupOptimWrapperConstructor')
default_hooks = dict(_base_.checks, ema=_base_.custom_hooks[0], pipeline_switch=switch)
