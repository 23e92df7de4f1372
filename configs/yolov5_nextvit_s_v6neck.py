# The P5 concat reads row 6, the lateral convolution, as in YOLOv5's own v6 YAML.
_base_ = './yolov5_nextvit_s.py'

rows = _base_.rows
rows[18 - 5] = [[-1, 6], 1, 'Concat', [1]]

model = dict(neck=dict(rows=rows))
