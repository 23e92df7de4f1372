# The recipe for small data from ImageNet weights: what some hundred images take.
_base_ = ['./yolov5_nextvit_l_in1k.py', './_base_/smalldata.py']

globals().update(__import__('mmnextvit').tune_recipe(_base_, _base_.pretrained))
