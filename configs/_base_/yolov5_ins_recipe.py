# MMYOLO's recipe of YOLOv5 v7.0's instance segmentation for COCO, with the same changes
# as yolov5_recipe.py.
_base_ = [
    'mmyolo::yolov5/ins_seg/yolov5_ins_s-v61_syncbn_fast_8xb16-300e_coco_instance.py',
    './yolov5_steps.py',
]

train_pipeline = [t for t in _base_.train_pipeline if t['type'] != 'mmdet.Albu']
train_dataloader = dict(
    collate_fn=dict(_base_.collate, _delete_=True),
    dataset=dict(_base_.verified_coco, pipeline=train_pipeline),
)
val_dataloader = test_dataloader = dict(dataset=_base_.verified_coco)
val_evaluator = test_evaluator = _base_.verified_metric
auto_scale_lr = dict(enable=False, base_batch_size=128)  # of mmnextvit train
optim_wrapper = _base_.yolov5_optim
ema = dict(_base_.custom_hooks[0], type='StepEMAHook')
custom_hooks = []  # for those of other configs, which so keep the averaging
default_hooks = dict(_base_.checks, param_scheduler=_base_.yolov5_schedule, ema=ema)
