# A narrow Next-ViT on drawn shapes (mmnextvit make_demo_data), in minutes on two CPU
# cores: small images, AdamW, a short schedule, no mosaic, no EMA, no drop path.
_base_ = './yolov5_nextvit_s.py'

data_root = 'work_dirs/demo_data/'
classes = ('circle', 'square', 'triangle')
img_scale = (128, 128)
max_epochs = 8

head = dict(head_module=dict(num_classes=len(classes)))
weights = dict(bbox=2.0, obj=1.0, cls=0.5)  # classes differ in colour: boxes are harder
head.update({f'loss_{name}': dict(loss_weight=w) for name, w in weights.items()})
sides = (18, 22, 26), (29, 33, 37), (41, 45, 50)  # anchors of P3, P4 and P5: squares
head.update(prior_generator=dict(base_sizes=[[(s, s) for s in p] for p in sides]))
arch = dict(  # with the neck, a twentieth of small's operations
    depths=(1, 1, 5, 1),
    stem_channels=(8, 8, 16),
    ncb_channels=(32, 64, 64, 96),
    stage_channels=(32, 64, 128, 128),
)
model = dict(backbone=dict(arch=arch, drop_path_rate=0.0), bbox_head=head)
# Shapes lie apart, so that boxes which overlap are of one shape, and it has one class.
model.update(test_cfg=dict(multi_label=False, nms=dict(iou_threshold=0.1)))

flip_and_pack = _base_.train_pipeline[-2:]
sized = [dict(t, scale=img_scale) if 'scale' in t else t for t in _base_.test_pipeline]
data = dict(data_root=data_root, metainfo=dict(classes=classes))
train = dict(**data, ann_file='annotations/train.json', data_prefix=dict(img='train/'))
train.update(pipeline=[*_base_.pre_transform, *flip_and_pack])
val = dict(**data, ann_file='annotations/val.json', data_prefix=dict(img='val/'))
val.update(pipeline=sized, batch_shapes_cfg=None)
loader = dict(batch_size=8, num_workers=0, persistent_workers=False)
train_dataloader = dict(**loader, dataset=train)
val_dataloader = test_dataloader = dict(**loader, dataset=val)
val_evaluator = test_evaluator = dict(ann_file=data_root + val['ann_file'])

adamw = dict(_delete_=True, type='AdamW', lr=3e-3, weight_decay=0.05, fused=True)
optim_wrapper = dict(optimizer=adamw, clip_grad=None)
by_iteration = dict(by_epoch=True, convert_to_iter_based=True)
warm_up = dict(type='LinearLR', start_factor=0.05, end=1, **by_iteration)
decay = dict(type='CosineAnnealingLR', end=max_epochs, **by_iteration)
decay.update(begin=min(1, max_epochs - 1))  # a single epoch is warm-up and decay
param_scheduler = [warm_up, decay]
hooks = {name: hook for name, hook in _base_.default_hooks.items() if name != 'ema'}
hooks['checkpoint'] = dict(hooks['checkpoint'], interval=max_epochs, save_best=None)
hooks['logger'] = dict(hooks['logger'], interval=15)
hooks['param_scheduler'] = dict(type='ParamSchedulerHook')
default_hooks = dict(hooks, _delete_=True)
train_cfg = dict(max_epochs=max_epochs, val_interval=4)
randomness = dict(seed=0)
