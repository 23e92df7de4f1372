"""Top-1 accuracies on ImageNet-1k, as timm publishes them for its weights.

Nothing is measured here. timm's wheel does not have the numbers; they are from its
repository, file and commit as in :data:`SOURCE`.
"""

from typing import NamedTuple

SOURCE = (
    'https://github.com/huggingface/pytorch-image-models/blob/'
    '7479d451a6dfd8af27f941b8e82a7402461fae80/results/results-imagenet.csv'
)


class Accuracy(NamedTuple):
    """Percent of the validation images, at a size in pixels."""

    top1: float
    size: int


# By timm's name with its tag, at the size that the weights were trained at or, where
# there are several, the smallest of 224 or more.
ACCURACIES = {
    'convnext_tiny.fb_in1k': Accuracy(82.066, 224),
    'convnext_tiny.fb_in22k_ft_in1k': Accuracy(82.888, 224),
    'convnext_tiny.in12k_ft_in1k': Accuracy(84.192, 224),
    'efficientnet_lite0.ra_in1k': Accuracy(75.490, 224),
    'fastvit_sa24.apple_dist_in1k': Accuracy(83.362, 256),
    'fastvit_sa24.apple_in1k': Accuracy(82.706, 256),
    'hgnetv2_b5.ssld_stage1_in22k_in1k': Accuracy(84.456, 224),
    'hgnetv2_b5.ssld_stage2_ft_in1k': Accuracy(84.810, 224),
    'mobilenetv4_conv_medium.e500_r224_in1k': Accuracy(79.092, 224),
    'mobilenetv4_conv_medium.e500_r256_in1k': Accuracy(79.922, 256),
    'nextvit_base.bd_in1k': Accuracy(83.496, 224),
    'nextvit_base.bd_ssld_6m_in1k': Accuracy(85.182, 224),
    'nextvit_large.bd_in1k': Accuracy(83.642, 224),
    'nextvit_small.bd_in1k': Accuracy(82.620, 224),
    'nextvit_small.bd_ssld_6m_in1k': Accuracy(84.856, 224),
    'regnety_032.ra_in1k': Accuracy(81.942, 224),
    'repvit_m2_3.dist_300e_in1k': Accuracy(83.524, 224),
    'repvit_m2_3.dist_450e_in1k': Accuracy(83.742, 224),
    'resnet50.a1_in1k': Accuracy(80.382, 224),
    'resnet50.tv_in1k': Accuracy(76.156, 224),
    'swin_tiny_patch4_window7_224.ms_in1k': Accuracy(81.388, 224),
}
