# MMYOLO's recipe of RTMDet-s for COCO (300 epochs, 8 GPUs with 32 images each), with
# our checks of data, losses and checkpoints.
_base_ = 'mmyolo::rtmdet/rtmdet_s_syncbn_fast_8xb32-300e_coco.py'
custom_imports = dict(imports=['mmnextvit'], allow_failed_imports=False)

train_dataloader = dict(
    collate_fn=dict(_delete_=True, type='yolov5_collate'),  # inherited, it has a scope
    dataset=dict(type='VerifiedCocoDataset'),
)
val_dataloader = dict(dataset=dict(type='VerifiedCocoDataset'))
test_dataloader = val_dataloader
val_evaluator = dict(type='mmdet.VerifiedCocoMetric')
test_evaluator = val_evaluator

auto_scale_lr = dict(enable=False, base_batch_size=256)  # of tools/train.py
default_hooks = dict(
    bad_loss=dict(type='StopOnBadLossHook'),
    checkpoint_fit=dict(type='CheckpointFitHook'),
    data_report=dict(type='DataReportHook'),
    predictions=dict(type='ContactSheetHook'),
    deploy=dict(type='DeployHook'),
)
