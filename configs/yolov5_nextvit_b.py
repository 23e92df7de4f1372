_base_ = './yolov5_nextvit_s.py'

model = dict(backbone=dict(arch='base'))
