# Small data, from the backbone of the official Mask R-CNN (COCO, 36 epochs): the one
# published NextViT that has learned to detect. Fetch the file from the authors' page,
# https://github.com/bytedance/Next-ViT, and name it here or by --cfg-options load_from.
_base_ = './yolov5_nextvit_s_smalldata_in1k.py'

load_from = 'mask_rcnn_nextvit_small_3x.pth'  # neck and head of it are left out
model = dict(backbone=dict(final_norm=False, init_cfg=None))  # it has no last norm
