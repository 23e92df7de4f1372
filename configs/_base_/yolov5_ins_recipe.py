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
optim_wrapper = dict(constructor='ThreeGroupOptimWrapperConstructor')
default_hooks = dict(
    bad_loss=dict(type='StopOnBadLossHook'),
    checkpoint_fit=dict(type='CheckpointFitHook'),
    data_report=dict(type='DataReportHook'),
    predictions=dict(type='ContactSheetHook'),
)
