"""The families of timm's backbones that the tests train, and benchmarks export."""

SWIN = dict(embed_dim=24, depths=(1, 1, 2, 1), num_heads=(1, 2, 4, 8))
MAXVIT = dict(transformer_window_size=4)  # multiples of 128 pixels
# FAMILIES by their smallest model, what it needs, and the maps of stride 4 to 32.
FAMILIES = {
    'resnet10t': {},
    'convnext_atto': {},
    'test_efficientnet': {},
    'mobilenetv3_small_050': {},
    'swin_tiny_patch4_window7_224': SWIN,
    'swinv2_tiny_window8_256': SWIN,
    'test_maxvit': MAXVIT,
    'regnetx_002': {},
    # its maps have layers of their own, and the rows do not read the first
    'hrnet_w18_small': dict(strides=(8, 16, 32)),
    'edgenext_xx_small': {},
    'ghostnet_050': {},
    'dla46_c': {},
    'mambaout_femto': dict(depths=(1, 1, 1, 1)),
    'xception41': {},  # features by hooks
    'test_vit': dict(strides=(16,)),  # by forward_intermediates
}
# test_vit has one stride
DETECTORS = [name for name in FAMILIES if name != 'test_vit']
