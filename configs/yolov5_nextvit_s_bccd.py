# Blood cells (BCCD, 640x480 microscope images) from its Pascal VOC files:
# git clone https://github.com/Shenggan/BCCD_Dataset data/BCCD_Dataset
_base_ = './yolov5_nextvit_s.py'

data_root = 'data/BCCD_Dataset/BCCD/'  # the one thing to set
classes = ('RBC', 'WBC', 'Platelets')
img_scale = (320, 320)  # for a laptop; (640, 640) suits a GPU and the small platelets
max_epochs = 30

head = dict(
    head_module=dict(num_classes=len(classes)),
    # YOLOv5 scales these two with the number of classes and with the area.
    loss_cls=dict(loss_weight=_base_.loss_cls_weight * len(classes) / 80),
    loss_obj=dict(loss_weight=_base_.loss_obj_weight * (img_scale[0] / 640) ** 2),
)
model = dict(bbox_head=head)
model.update(test_cfg=dict(nms=dict(iou_threshold=0.6)))  # YOLOv5's while it trains

sized = dict(
    Mosaic=dict(img_scale=img_scale),
    YOLOv5RandomAffine=dict(border=(-img_scale[0] // 2, -img_scale[1] // 2)),
    YOLOv5KeepRatioResize=dict(scale=img_scale),
    LetterResize=dict(scale=img_scale),
)
train_pipeline = [dict(t, **sized.get(t['type'], {})) for t in _base_.train_pipeline]
test_pipeline = [dict(t, **sized.get(t['type'], {})) for t in _base_.test_pipeline]
test_pipeline[-1]['meta_keys'] += ('instances',)  # the truth, for the metric

data = dict(type='VerifiedVOCDataset', data_root=data_root)
data.update(metainfo=dict(classes=classes))
data.update(data_prefix=dict(_delete_=True, sub_data_root=''))
train = dict(**data, ann_file='ImageSets/Main/train.txt', pipeline=train_pipeline)
val = dict(**data, ann_file='ImageSets/Main/val.txt', pipeline=test_pipeline)
val.update(batch_shapes_cfg=dict(img_size=img_scale[0]))
train_dataloader = dict(batch_size=8, num_workers=2, dataset=train)
val_dataloader = dict(dataset=val)
test_dataloader = dict(dataset=dict(val, ann_file='ImageSets/Main/test.txt'))
val_evaluator = test_evaluator = dict(ann_file=None)

schedule = dict(max_epochs=max_epochs, warmup_mim_iter=100)
default_hooks = dict(param_scheduler=schedule)
train_cfg = dict(max_epochs=max_epochs)
