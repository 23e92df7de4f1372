# YOLOv5's BatchNorm, which YOLOv8 has too, for the backbone: the necks have it anyway.
# mmnextvit.models.yolov5_modules.NORM_CFG has the same for models without a config.
yolov5_norm = dict(type='BN', eps=1e-3, momentum=0.03)
