"""Our configs and models by name, as :mod:`mmengine.hub` has those of its packages.

MMEngine takes ``package::path`` from a fixed list, which we aren't on.
"""

# The packages are imported in the functions: where the runtime alone is installed,
# `import mmnextvit` works without them.

from pathlib import Path
from typing import TYPE_CHECKING

from .utils.errors import MissingFileError, UserError
from .utils.messages import did_you_mean
from .utils.packages import explain_missing_mmyolo

if TYPE_CHECKING:
    from mmengine.config import Config
    from torch import nn

PACKAGE = Path(__file__).resolve().parent


def find_mim_folder() -> Path:
    """The folder of ``configs``, ``tools`` and ``model-index.yml``.

    ``.mim`` inside the package where it is installed, otherwise the repository.

    Raises:
        MissingFileError: The package has been installed without them.
    """
    for folder in (PACKAGE / '.mim', PACKAGE.parent):
        if (folder / 'configs' / '_base_' / 'yolov5_recipe.py').is_file():
            return folder
    raise MissingFileError(
        f'{PACKAGE / ".mim"} is missing: mmnextvit is installed without its configs. '
        'Install it again, from its wheel or its repository, with pip'
    )


def find_config_folder() -> Path:
    """The folder of our configs.

    Raises:
        MissingFileError: The package has been installed without them.
    """
    return (find_mim_folder() / 'configs').resolve()


def config_file(name: str) -> str:
    """The path of one of our configs, to inherit from or to give to any tool.

    ``_base_ = __import__('mmnextvit').config_file('yolov5_nextvit_s')`` is how a config
    elsewhere inherits. MMEngine evaluates that expression before anything else in the
    file, so it also registers what the package has.

    Args:
        name: Name of the config, with or without ``.py``.

    Raises:
        MissingFileError: There is none of that name; the message has near ones.
    """
    folder = find_config_folder()
    path = folder / f'{str(name).removesuffix(".py")}.py'
    if path.is_file():
        return str(path)
    names = sorted(p.stem for p in folder.glob('*.py'))
    hint = did_you_mean(path.stem, names) or f'it has {", ".join(names)}'
    raise MissingFileError(f'mmnextvit has no config {name!r}: {hint}')


def get_config(name: str, pretrained: bool = False) -> 'Config':
    """One of our configs, as :func:`mmengine.hub.get_config` gives another package's.

    Args:
        name: Name of the config, with or without ``.py``.
        pretrained: Whether ``model_path`` is to hold the weights that the metafile
            names.

    Raises:
        MissingFileError: There is none of that name; the message has near ones.
        MissingPackageError: It inherits from MMYOLO, which is not installed.
        UserError: Pretrained, but the metafile names no weights.
    """
    from mmengine.config import Config

    path = config_file(name)
    weights = _find_weights(path) if pretrained else None
    with explain_missing_mmyolo():
        cfg = Config.fromfile(path)
    if pretrained:
        cfg.model_path = weights
    return cfg


def get_model(name: str, pretrained: bool = False, **kwargs: object) -> 'nn.Module':
    """The model of one of our configs, as :func:`mmengine.hub.get_model` gives others'.

    Args:
        name: Name of the config, with or without ``.py``.
        pretrained: Whether to load the weights that the metafile names. Without, they
            are as constructed, until ``init_weights`` is called.
        kwargs: Arguments of the model that its config leaves open.

    Raises:
        MissingFileError: There is no such config; the message has near ones.
        UserError: Pretrained, but the metafile names no weights, or they don't fit.
    """
    from mmengine.registry import MODELS, DefaultScope

    cfg = get_config(name, pretrained)
    scope = cfg.get('default_scope') or 'mmdet'
    with DefaultScope.overwrite_default_scope(scope):
        model = MODELS.build(cfg.model, default_args=kwargs)
    if pretrained:
        from mmengine.runner import CheckpointLoader

        from .weights.loading import adapt, check

        content = CheckpointLoader.load_checkpoint(cfg.model_path, 'cpu')
        check(adapt(content, model, cfg.model_path), None)
        # All fits that matters; BatchNorm's batch counters may be missing.
        model.load_state_dict(content['state_dict'], strict=False)
        model._is_init = True  # MMEngine's Runner would initialise it again
    return model


def _find_weights(config: str) -> str:
    """The weights that the metafiles name for a config.

    Raises:
        UserError: They name none.
    """
    import yaml

    root = find_mim_folder()
    named: dict[str, str] = {}
    index = root / 'model-index.yml'
    imported = yaml.safe_load(index.read_bytes())['Import'] if index.is_file() else []
    for metafile in imported:
        for entry in yaml.safe_load((root / metafile).read_bytes())['Models']:
            if entry.get('Config') and entry.get('Weights'):
                path = str((root / entry['Config']).resolve())
                named.setdefault(path, entry['Weights'])
    if config in named:
        return named[config]
    others = ', '.join(sorted(Path(path).stem for path in named)) or 'no config'
    raise UserError(
        f'There are no pretrained weights for {Path(config).stem}: the metafiles name '
        f'some for {others}'
    )
