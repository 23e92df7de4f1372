# The recipe for small data from scratch; your data go on top of it, as in docs/data.md.
_base_ = ['./yolov5_nextvit_s.py', './_base_/smalldata.py']

globals().update(__import__('mmnextvit').tune_recipe(_base_, _base_.scratch))
