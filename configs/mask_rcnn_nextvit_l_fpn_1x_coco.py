_base_ = './mask_rcnn_nextvit_s_fpn_1x_coco.py'

weights = 'timm://nextvit_large.bd_in1k'

model = dict(backbone=dict(arch='large', init_cfg=dict(checkpoint=weights)))
