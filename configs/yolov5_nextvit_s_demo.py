# The small model on the demo data (tools/make_demo_data.py), fast enough for two CPU
# cores: small pictures, AdamW, no mosaic, one cycle of the learning rate.
_base_ = './yolov5_nextvit_s.py'

data_root = 'work_dirs/demo_data/'
classes = ('circle', 'square', 'triangle')
img_scale = (96, 96)
max_epochs = 5

model = dict(
    backbone=dict(drop_path_rate=0.0),
    bbox_head=dict(
        head_module=dict(num_classes=len(classes)),
        # in balance from the first iteration on, since there are few
        loss_cls=dict(loss_weight=1.0),
        loss_obj=dict(loss_weight=1.0),
        loss_bbox=dict(loss_weight=2.0),
    ),
)
train_pipeline = [
    *_base_.pre_transform,
    dict(type='YOLOv5HSVRandomAug'),
    dict(
        type='mmdet.RandomFlip', prob=[0.25] * 2, direction=['horizontal', 'vertical']
    ),
    _base_.train_pipeline[-1],
]
test_pipeline = [
    dict(step, scale=img_scale) if 'scale' in step else step
    for step in _base_.test_pipeline
]
data = dict(data_root=data_root, metainfo=dict(classes=classes), batch_shapes_cfg=None)
train_dataloader = dict(
    batch_size=8,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        **data,
        ann_file='annotations/train.json',
        data_prefix=dict(img='train'),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=8,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        **data,
        ann_file='annotations/val.json',
        data_prefix=dict(img='val'),
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'annotations/val.json')
test_evaluator = val_evaluator
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=1e-3, weight_decay=0.05)
)
param_scheduler = [
    dict(
        type='OneCycleLR',
        eta_max=3e-3,
        total_steps=max_epochs,
        by_epoch=True,
        convert_to_iter_based=True,
    )
]
default_hooks = dict(
    param_scheduler=dict(_delete_=True, type='ParamSchedulerHook'),
    checkpoint=dict(interval=max_epochs),
    logger=dict(interval=10),
)
custom_hooks = []
train_cfg = dict(max_epochs=max_epochs, val_interval=2)
randomness = dict(seed=0)
