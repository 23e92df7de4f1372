"""Any timm model that gives feature maps, as a backbone of MMDetection.

What a model's maps are computed from is found by tracing it once without memory (on
torch's 'meta' device), so that no name or wrapper of timm's has to be trusted.
"""

import difflib
import sys
import warnings
from collections.abc import Mapping, Sequence
from types import ModuleType

import torch
from mmdet.registry import MODELS
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

STRIDES = (4, 8, 16, 32)  # of the maps emitted by default
STEM_STRIDE = 4  # maps of a lower stride are the stem's

# What makes the models of a timm file take images of any size, where they can.
ANY_SIZE = {
    'swin_transformer': dict(strict_img_size=False),
    'swin_transformer_v2': dict(strict_img_size=False),
    'swin_transformer_v2_cr': dict(strict_img_size=False),
    'vision_transformer': dict(dynamic_img_size=True),
    'deit': dict(dynamic_img_size=True),
    'eva': dict(dynamic_img_size=True),
}


def timm_mean_std(model_name: str) -> dict[str, list[float]]:
    """The normalisation that a timm model was trained with.

    Returns:
        ``mean`` and ``std`` of R, G and B in 0 to 255, as MMDetection's
        ``data_preprocessor`` takes them (with ``bgr_to_rgb=True``).

    Raises:
        ValueError: timm has no such model.
    """
    import timm

    check_name(model_name)
    cfg = timm.get_pretrained_cfg(model_name)
    return {
        key: [round(255 * x, 3) for x in getattr(cfg, key)] for key in ('mean', 'std')
    }


@MODELS.register_module()
class TimmFeatures(BaseModule):
    """timm's ``features_only`` models as a backbone, ``mmdet.TimmFeatures``.

    Weights come through ``init_cfg=dict(type='Pretrained',
    checkpoint='timm://<model_name>')``; :func:`timm_mean_std` gives the mean and std
    for the config's ``data_preprocessor``. BatchNorms keep timm's constants.

    Swin and ViT are built for images of any size unless ``kwargs`` say otherwise.
    MaxViT takes multiples of 32 windows only: of its training size (224 or 256), or,
    with ``transformer_window_size=5``, of 160. What does not fit is refused with a
    size that does.

    Args:
        model_name: timm's name, with or without a tag, such as 'resnet18.a1_in1k'.
        out_indices: Maps to emit, strictly increasing indices of timm's
            ``feature_info``.
        strides: The same by stride in pixels; of several maps of a stride the last.
            Without either, those of :data:`STRIDES` that the model has. Where a map
            has layers of its own, as HRNet's have, leave out what the neck does not
            read: they would get no gradient.
        frozen_stages: -1 freezes nothing, 0 the stem, k all that the k-th map of stride
            4 or more is computed from. Emitted or not, maps are counted alike.
        norm_eval: Whether BatchNorm statistics stay as they are in training.
        with_cp: Whether timm's gradient checkpointing saves memory. Gradients and
            BatchNorm statistics stay the same.
        norm_cfg: ``dict(type='BN', eps=..., momentum=...)`` for every BatchNorm2d, or
            ``None`` for timm's.
        init_cfg: MMEngine's initialisation config.
        **kwargs: Other arguments of ``timm.create_model``, such as ``drop_path_rate``.

    Raises:
        ValueError: The model is unknown or has no such maps, or it does not support an
            argument; the message lists what is allowed.
    """

    def __init__(
        self,
        model_name: str,
        out_indices: Sequence[int] | None = None,
        strides: Sequence[int] | None = None,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        norm_cfg: dict | None = None,
        init_cfg: dict | list[dict] | None = None,
        **kwargs,
    ) -> None:
        super().__init__(init_cfg)
        if 'pretrained' in kwargs:
            raise ValueError(
                "pretrained is not an argument here: write init_cfg=dict(type='"
                f"Pretrained', checkpoint='timm://{model_name}')"
            )
        check_name(model_name)
        self.model_name = model_name
        self.norm_eval = norm_eval
        self.with_cp = with_cp
        self._momenta: list[tuple[_BatchNorm, float | None]] = []
        file = source_file(model_name).__name__.rpartition('.')[2]
        self.kwargs = {**ANY_SIZE.get(file, {}), **kwargs}

        full = on_meta(model_name, self.kwargs)
        info = full.feature_info.info
        indices = chosen([x['reduction'] for x in info], out_indices, strides)
        self.out_indices = indices
        self._info = [info[i] for i in indices]
        self.model = create(model_name, out_indices=indices, **self.kwargs)
        self._nhwc = getattr(self.model, 'output_fmt', None) == 'NHWC'

        # Layers behind the last map, or of maps that are not emitted, get no gradient,
        # which optimizers leave as it is but DistributedDataParallel refuses.
        sources = traced(full, kwargs.get('img_size'))
        used = set().union(*(sources[i] for i in indices))
        self._frozen = frozen_names(
            full, sources, frozen_stages, indices[-1], model_name
        )
        for name, param in self.model.named_parameters():
            param.requires_grad_(name in used and name not in self._frozen)
        if norm_cfg is not None:
            self._set_norms(norm_cfg)
        if with_cp:
            self._checkpoint()
        self.train()

    @property
    def out_channels(self) -> tuple[int, ...]:
        """Channels of the maps that ``forward`` returns."""
        return tuple(x['num_chs'] for x in self._info)

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels of the image a cell, for the maps that ``forward`` returns."""
        return tuple(x['reduction'] for x in self._info)

    @property
    def mean(self) -> list[float]:
        """Mean of R, G and B in 0 to 255 that the model was trained with."""
        return timm_mean_std(self.model_name)['mean']

    @property
    def std(self) -> list[float]:
        """Standard deviation, likewise."""
        return timm_mean_std(self.model_name)['std']

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Computes the maps.

        Args:
            x: Images (B, 3, H, W).

        Returns:
            One (B, C, H/s, W/s) a map, high to low resolution, with C and s from
            ``out_channels`` and ``strides``; fractions are rounded either way.

        Raises:
            ValueError: The model takes no image of this size.
        """
        size = tuple(x.shape[-2:])
        self._count(True)
        try:
            maps = self.model(x)
        except (AssertionError, RuntimeError) as error:
            if problem := self._size_problem(size):
                raise ValueError(problem) from error
            raise  # another cause, such as memory
        if self.with_cp and self.training:
            self._count(False)
        if self._nhwc:
            maps = [y.permute(0, 3, 1, 2) for y in maps]  # B H W C -> B C H W
        for y, stride in zip(maps, self.strides):
            if any(
                not n // stride <= m <= -(-n // stride)
                for n, m in zip(size, y.shape[-2:])
            ):
                raise ValueError(
                    f'{self.model_name}: of an image of {size[0]}x{size[1]} (height x '
                    f'width) the map of stride {stride} has {tuple(y.shape[-2:])} '
                    f'cells. Multiples of {2 * max(self.strides)} may fit.'
                )
        return tuple(maps)

    def train(self, mode: bool = True) -> 'TimmFeatures':
        """Sets the training mode; frozen parts and ``norm_eval`` stay in eval."""
        super().train(mode)
        self._count(True)
        frozen = {p for n, p in self.model.named_parameters() if n in self._frozen}
        for module in self.model.modules() if frozen else ():
            params = set(module.parameters())
            if params and params <= frozen:
                module.eval()
        if mode and self.norm_eval:
            for module in self._norms():
                module.eval()
        return self

    def from_timm(
        self, state: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], list[str]]:
        """A timm state dict under this backbone's names.

        Args:
            state: Of the classifier, as timm publishes it or in an older layout that
                timm converts itself, or of the ``features_only`` model.

        Returns:
            The entries that have a place here, and the names of the others, such as a
            classifier's head.
        """
        own = self.state_dict()

        def placed(state: Mapping[str, Tensor]) -> tuple[int, dict, list]:
            """How many fit, the entries, and the others' names."""
            found, left = {}, []
            for name, value in state.items():
                forms = [name, *(f'model.{form}' for form in wrapped(name))]
                place = next((form for form in forms if form in own), None)
                if place:
                    found[place] = value
                else:
                    left.append(name)
            fit = sum(value.shape == own[name].shape for name, value in found.items())
            return fit, found, left

        fit, *direct = placed(state)
        convert = getattr(source_file(self.model_name), 'checkpoint_filter_fn', None)
        if fit == len(own) or convert is None:
            return tuple(direct)
        import timm

        try:
            with torch.device('meta'), warnings.catch_warnings(action='ignore'):
                classifier = timm.create_model(self.model_name, **self.kwargs)
            more, *converted = placed(convert(dict(state), classifier))
        except Exception:  # timm's conversions expect a file of their own model
            return tuple(direct)
        return tuple(converted if more > fit else direct)

    def _norms(self) -> list[_BatchNorm]:
        return [m for m in self.model.modules() if isinstance(m, _BatchNorm)]

    def _set_norms(self, cfg: dict) -> None:
        if cfg.get('type', 'BN') != 'BN' or cfg.keys() - {'type', 'eps', 'momentum'}:
            raise ValueError(
                f'norm_cfg={cfg!r}: allowed is dict(type="BN", eps=..., momentum=...)'
            )
        for module in self._norms():
            if isinstance(module, nn.BatchNorm2d):
                module.eps = cfg.get('eps', module.eps)
                module.momentum = cfg.get('momentum', module.momentum)

    def _checkpoint(self) -> None:
        """timm's switch; wrappers around ``forward_intermediates`` have it inside."""
        for model in (self.model, getattr(self.model, 'model', None)):
            if hasattr(model, 'set_grad_checkpointing'):
                try:
                    model.set_grad_checkpointing()
                    return
                except (AssertionError, NotImplementedError):
                    break
        raise ValueError(
            f'{self.model_name} has no gradient checkpointing in timm: '
            'leave with_cp out'
        )

    def _count(self, on: bool) -> None:
        """Lets BatchNorms move their statistics, or keeps a checkpoint's second pass,
        which comes in backward, from moving them again."""
        for norm, momentum in self._momenta:
            norm.momentum = momentum
        self._momenta = [] if on else [(m, m.momentum) for m in self._norms()]
        for norm, _ in self._momenta:
            norm.momentum = 0.0

    def _size_problem(self, size: tuple[int, int]) -> str:
        """Why images of ``size`` are refused, or nothing if they are not."""
        model = on_meta(self.model_name, self.kwargs)
        if fitting(model, [size]):
            return ''
        advice = []
        if better := fitting(model, squares(max(size))):
            advice.append(f'images of {better[0]}x{better[1]} fit')
        try:
            fixed = on_meta(self.model_name, {**self.kwargs, 'img_size': size})
            if fitting(fixed, [size]):
                advice.append(f'img_size={size} builds it for this size')
        except (TypeError, ValueError):  # it has no img_size, or not this one
            pass
        return (
            f'{self.model_name} takes no images of {size[0]}x{size[1]} (height x '
            f'width): {", and ".join(advice) or "no size near fits either"}'
        )


def base_name(model_name: str) -> str:
    """The architecture: the name without its tag."""
    return model_name.partition('.')[0]


def source_file(model_name: str) -> ModuleType:
    """timm's module that has the model, such as ``timm.models.swin_transformer``."""
    import timm

    return sys.modules[timm.model_entrypoint(base_name(model_name)).__module__]


def check_name(model_name: str) -> None:
    """Raises a ValueError with near names where timm has no such model or tag."""
    import timm

    base = base_name(model_name)
    if not timm.is_model(base):
        known, word = timm.list_models(), base
    elif base != model_name and not timm.models.is_model_pretrained(model_name):
        known, word = timm.list_pretrained(f'{base}.*'), model_name
    else:
        return
    near = difflib.get_close_matches(word, known, 5, 0.5)
    hint = f': near are {", ".join(near)}' if near else ' and none of a near name'
    raise ValueError(f'timm has no model {model_name!r}{hint}')


def create(model_name: str, **kwargs) -> nn.Module:
    """timm's ``features_only`` model.

    Raises:
        ValueError: It gives no maps.
    """
    import timm

    try:
        return timm.create_model(model_name, features_only=True, **kwargs)
    except (AssertionError, AttributeError, KeyError, RuntimeError) as error:
        raise no_maps(model_name, error) from error


def no_maps(name: str, error: Exception) -> ValueError:
    cause = error or type(error).__name__
    return ValueError(f'timm makes no feature maps of {name} that work here: {cause}')


def on_meta(model_name: str, kwargs: dict) -> nn.Module:
    """The model that emits every map it has, without memory for its weights."""
    with torch.device('meta'), warnings.catch_warnings(action='ignore'):
        model = create(model_name, **kwargs)
        every = tuple(range(len(model.feature_info.info)))
        if tuple(model.feature_info.out_indices) != every:
            model = create(model_name, **{**kwargs, 'out_indices': every})
    return model.eval()


def meta_maps(model: nn.Module, size: tuple[int, int]) -> list[Tensor]:
    with torch.device('meta'), warnings.catch_warnings(action='ignore'):
        return model(torch.empty(1, getattr(model, 'in_chans', 3), *size))


def squares(least: int) -> list[tuple[int, int]]:
    """Sizes to try from ``least`` on, multiples of 32."""
    start = -(-least // 32) * 32
    return [(s, s) for s in range(start, start + 512, 32)]


def fitting(
    model: nn.Module, sizes: Sequence[tuple[int, int]]
) -> tuple[int, int] | None:
    """The first of ``sizes`` that a model on 'meta' takes."""
    for size in sizes:
        try:
            with torch.no_grad():
                meta_maps(model, size)
            return tuple(size)
        except (AssertionError, RuntimeError):
            pass
    return None


def traced(model: nn.Module, img_size: int | Sequence[int] | None) -> list[set[str]]:
    """Names of the parameters that each map of a model on 'meta' is computed from.

    Raises:
        ValueError: It cannot be computed there at any size.
    """
    names = {p: name for name, p in model.named_parameters()}
    own = img_size or model.pretrained_cfg['input_size'][-2:]
    own = (own, own) if isinstance(own, int) else own
    size = fitting(model, [own, *squares(32)])
    try:
        with torch.enable_grad():
            maps = meta_maps(model, size or own)
    except (AssertionError, RuntimeError) as error:
        raise no_maps(model.pretrained_cfg['architecture'], error) from error
    found = []
    for y in maps:
        reached, nodes, seen = set(), [y.grad_fn], set()
        while nodes:
            node = nodes.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            if hasattr(node, 'variable'):
                reached.add(names[node.variable])
            nodes += [following for following, _ in node.next_functions]
        found.append(reached)
    return found


def chosen(
    reductions: list[int], out_indices: Sequence | None, strides: Sequence | None
) -> tuple[int, ...]:
    """Indices of the maps to emit.

    Raises:
        ValueError: The model has no such maps; the message lists those it has.
    """
    have = f'the maps 0 to {len(reductions) - 1} have the strides {reductions}'
    if out_indices is not None and strides is not None:
        raise ValueError(f'give out_indices or strides, not both: {have}')
    if out_indices is not None:
        key, given, indices = 'out_indices', out_indices, tuple(out_indices)
        missing = not set(indices) <= set(range(len(reductions)))
    else:
        key, given = 'strides', strides
        last = {stride: i for i, stride in enumerate(reductions)}
        wanted = [s for s in STRIDES if s in last] if strides is None else strides
        missing = not set(wanted) <= set(last)
        indices = tuple(last.get(s, 0) for s in wanted)
    if missing or not indices or any(a >= b for a, b in zip(indices, indices[1:])):
        raise ValueError(f'{key}={given!r}: allowed are increasing ones, and {have}')
    return indices


def frozen_names(
    full: nn.Module, sources: list[set[str]], stages: int, last: int, model_name: str
) -> set[str]:
    """Parameters of the stem and the first ``stages`` stages.

    Raises:
        ValueError: There are not so many, or the maps do not follow from one another,
            as in HRNet, so that freezing one would freeze layers of all.
    """
    if stages == -1:
        return set()
    info = full.feature_info.info
    ends = [i for i in range(last + 1) if info[i]['reduction'] >= STEM_STRIDE]
    if stages not in range(len(ends) + 1):
        raise ValueError(
            f'frozen_stages={stages!r}: allowed are -1 (nothing), 0 (the stem) to '
            f'{len(ends)} (the stem and all stages that are emitted)'
        )
    if any(not a <= b for a, b in zip(sources, sources[1:])):
        raise ValueError(
            f'frozen_stages={stages}: {model_name} does not compute its maps one after '
            'another, so that stages cannot be frozen: write frozen_stages=-1'
        )
    if stages:
        return sources[ends[stages - 1]]
    first = ends[0] if ends else last + 1
    if first:
        return sources[first - 1]
    # No map before the first stage: the stem is what is registered before it.
    prefixes = tuple(f'{name}.' for name in wrapped(info[0]['module']))
    names = [name for name, _ in full.named_parameters()]
    start = next((i for i, n in enumerate(names) if n.startswith(prefixes)), None)
    stem = set(names[:start]) & sources[0]
    if start is None or not stem:
        raise ValueError(f'frozen_stages=0: {model_name} has no stem that timm tells')
    return stem


def wrapped(name: str) -> tuple[str, ...]:
    """What a classifier's module or parameter may be called under timm's wrappers.

    As it was; with the first level flattened; inside a wrapper's ``model`` or ``body``.
    """
    return name, name.replace('.', '_', 1), f'model.{name}', f'body.{name}'
