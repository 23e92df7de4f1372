# Blood cells (BCCD, 640x480 microscope pictures) from its Pascal VOC files:
# git clone https://github.com/Shenggan/BCCD_Dataset data/BCCD_Dataset
_base_ = './yolov5_nextvit_s.py'

data_root = 'data/BCCD_Dataset/BCCD/'  # the one thing to set
classes = ('RBC', 'WBC', 'Platelets')
img_scale = (320, 320)  # for a laptop; (640, 640) suits a GPU and the small platelets
batch_size = 8
max_epochs = 30

model = dict(
    bbox_head=dict(
        head_module=dict(num_classes=len(classes)),
        # YOLOv5 scales these two with the number of classes and the area.
        loss_cls=dict(loss_weight=_base_.loss_cls_weight * len(classes) / 80),
        loss_obj=dict(loss_weight=_base_.loss_obj_weight * (img_scale[0] / 640) ** 2),
    )
)
changes = {
    'Mosaic': dict(img_scale=img_scale),
    'YOLOv5RandomAffine': dict(border=(-img_scale[0] // 2, -img_scale[1] // 2)),
    'YOLOv5KeepRatioResize': dict(scale=img_scale),
    'LetterResize': dict(scale=img_scale),
}
train_pipeline = [dict(t, **changes.get(t['type'], {})) for t in _base_.train_pipeline]
test_pipeline = [dict(t, **changes.get(t['type'], {})) for t in _base_.test_pipeline]
test_pipeline[-1]['meta_keys'] += ('instances',)  # the truth, for the metric

voc = dict(
    type='VerifiedVOCDataset',
    data_root=data_root,
    data_prefix=dict(_delete_=True, sub_data_root=''),
    metainfo=dict(classes=classes),
)
val = dict(pipeline=test_pipeline, batch_shapes_cfg=dict(img_size=img_scale[0]))
train_dataloader = dict(
    batch_size=batch_size,
    num_workers=2,
    dataset=dict(**voc, ann_file='ImageSets/Main/train.txt', pipeline=train_pipeline),
)
val_dataloader = dict(dataset=dict(**voc, **val, ann_file='ImageSets/Main/val.txt'))
test_dataloader = dict(dataset=dict(**voc, **val, ann_file='ImageSets/Main/test.txt'))
val_evaluator = dict(ann_file=None)
test_evaluator = val_evaluator

default_hooks = dict(
    param_scheduler=dict(max_epochs=max_epochs, warmup_mim_iter=100),
    checkpoint=dict(interval=5),
)
train_cfg = dict(max_epochs=max_epochs, val_interval=5)
