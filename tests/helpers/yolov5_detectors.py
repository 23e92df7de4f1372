"""Detectors that are imported from YOLOv5's model YAMLs, for several tests."""

import re
from collections.abc import Mapping
from pathlib import Path

from mmnextvit.utils.yaml_reader import read_yaml
from mmnextvit.yolov5_import.config_text import Settings, make_config_text
from mmnextvit.yolov5_import.import_model import build
from mmnextvit.yolov5_import.model_yaml import ImportedModel, read_model

from mmengine.config import Config
from torch import Tensor, nn

from tests.helpers.yolov5_models import write_yaml


def read_content(folder: Path, content: dict) -> ImportedModel:
    """A model YAML's content, written to ``folder`` and read."""
    return read_model(read_yaml(write_yaml(folder / 'model.yaml', content)))


def import_content(
    folder: Path, content: dict, **settings: object
) -> tuple[str, Config, nn.Module]:
    """Text, config and detector of a model YAML's content."""
    model = read_content(folder, content)
    text = make_config_text(model, Settings(sources=['model.yaml'], **settings))
    return text, *build(text)


def yolov5_names(state: Mapping[str, Tensor], head: int) -> dict[str, Tensor]:
    """YOLOv5's names of a detector whose rows begin at the image.

    Args:
        state: The detector's state dict.
        head: Number of the head's row.
    """
    names = {}
    for name, value in state.items():
        new = re.sub(r'^(backbone|neck)\.rows\.', 'model.', name)
        new = new.replace('bbox_head.head_module.convs_pred', f'model.{head}.m')
        new = re.sub(
            r'bbox_head\.head_module\.proto_pred\.conv', f'model.{head}.proto.cv', new
        )
        names[new] = value
    return names


def module_names(content: dict) -> list[str]:
    """The module of each row of a model YAML's content."""
    return [row[2] for row in (*content['backbone'], *content['head'])]
