# The dataset and the metric that check COCO data, for MMYOLO's recipes.
_base_ = './checks.py'

verified_coco = dict(type='VerifiedCocoDataset')
verified_metric = dict(type='mmdet.VerifiedCocoMetric')
# MMYOLO's, without the key _scope_ that an inherited one has: a call would not take it.
collate = dict(type='yolov5_collate')
