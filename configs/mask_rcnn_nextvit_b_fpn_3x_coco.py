_base_ = './mask_rcnn_nextvit_s_fpn_3x_coco.py'

weights = 'timm://nextvit_base.bd_in1k'

model = dict(backbone=dict(arch='base', init_cfg=dict(checkpoint=weights)))
