# MMYOLO's recipe of YOLOv8-s for COCO (500 epochs, 8 GPUs with 16 images each),
# without Albumentations, with our checks of data, losses and checkpoints.
_base_ = 'mmyolo::yolov8/yolov8_s_syncbn_fast_8xb16-500e_coco.py'
custom_imports = dict(imports=['mmnextvit'], allow_failed_imports=False)

train_pipeline, train_pipeline_stage2 = (
    [t for t in pipeline if t['type'] != 'mmdet.Albu']
    for pipeline in (_base_.train_pipeline, _base_.train_pipeline_stage2)
)
switch = dict(_base_.custom_hooks[1], switch_pipeline=train_pipeline_stage2)
custom_hooks = [_base_.custom_hooks[0], switch]
train_dataloader = dict(
    collate_fn=dict(_delete_=True, type='yolov5_collate'),  # inherited, it has a scope
    dataset=dict(type='VerifiedCocoDataset', pipeline=train_pipeline),
)
val_dataloader = dict(dataset=dict(type='VerifiedCocoDataset'))
test_dataloader = val_dataloader
val_evaluator = dict(type='mmdet.VerifiedCocoMetric')
test_evaluator = val_evaluator

auto_scale_lr = dict(enable=False, base_batch_size=128)  # of tools/train.py
optim_wrapper = dict(constructor='ThreeGroupOptimWrapperConstructor')
default_hooks = dict(
    bad_loss=dict(type='StopOnBadLossHook'),
    checkpoint_fit=dict(type='CheckpointFitHook'),
    data_report=dict(type='DataReportHook'),
    predictions=dict(type='ContactSheetHook'),
    deploy=dict(type='DeployHook'),
)
