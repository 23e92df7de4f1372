# MMYOLO's recipe of YOLOv5 v7.0's instance segmentation, with what ours changes in the
# recipe for boxes.
_base_ = (
    'mmyolo::yolov5/ins_seg/yolov5_ins_s-v61_syncbn_fast_8xb16-300e_coco_instance.py'  # noqa: E501
)
custom_imports = dict(imports=['mmnextvit'], allow_failed_imports=False)

train_pipeline = [t for t in _base_.train_pipeline if t['type'] != 'mmdet.Albu']
train_dataloader = dict(
    collate_fn=dict(_delete_=True, type='yolov5_collate'),  # inherited, it has a scope
    dataset=dict(type='VerifiedCocoDataset', pipeline=train_pipeline),
)
val_dataloader = dict(dataset=dict(type='VerifiedCocoDataset'))
test_dataloader = val_dataloader
val_evaluator = dict(type='mmdet.VerifiedCocoMetric')
test_evaluator = val_evaluator

auto_scale_lr = dict(enable=False, base_batch_size=128)  # of tools/train.py
# Beyond MMYOLO's: YOLOv5 steps, and averages its weights, once for 64 images where a
# batch has fewer (the weight decay counts on it); since v6.2 it clips gradients.
optim_wrapper = dict(
    type='SummingOptimWrapper',
    constructor='ThreeGroupOptimWrapperConstructor',
    clip_grad=dict(max_norm=10.0),
)
custom_hooks = [dict(_base_.custom_hooks[0], type='StepEMAHook')]
default_hooks = dict(
    param_scheduler=dict(type='YOLOv5ScheduleHook', nominal_batch_size=64),
    bad_loss=dict(type='StopOnBadLossHook'),
    checkpoint_fit=dict(type='CheckpointFitHook'),
    data_report=dict(type='DataReportHook'),
    predictions=dict(type='ContactSheetHook'),
    deploy=dict(type='DeployHook'),
)
